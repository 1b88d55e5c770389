"""Decoding by graphs on a GPU: what is replayed has the bits, and the traces, of what is launched step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.workers.engine.building import OPTIONS, bits
from tests.workers.engine.building import request as asked_for
from tests.workers.model.packing import DETERMINISTIC, NANO, build
from workers.engine import decode_graphs
from workers.engine.engine import Engine
from workers.engine.request import Request
from workers.model.collectives import make_collective
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.recorder import NullRecorder
from workers.model.sharding import Ranks
from workers.model.weights import RandomWeights
from workers.trace.recorder import TraceRecorder
from workers.trace.trace import Trace

CUDA = torch.device("cuda")
GPU = Ranks(0, 1, CUDA)
BATCH = [asked_for(f"row {i}", 240 + 3 * i, seed=i, max_new_tokens=8 + 4 * i) for i in range(4)]
"""Lengths go over 256, and the batch gets smaller as it goes on."""


class Eager(NullRecorder):
    graphs = False


class EagerTracer(TraceRecorder):
    graphs = False


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[torch.cuda.CUDAGraph]:
    """Graphs, in the order in which they were replayed."""
    found: list[torch.cuda.CUDAGraph] = []
    replay = torch.cuda.CUDAGraph.replay

    def noted(graph: torch.cuda.CUDAGraph) -> None:
        found.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", noted)
    return found


@pytest.fixture(scope="module")
def model() -> DeepseekV3:
    return build(DETERMINISTIC, ranks=GPU)


def generated(engine: Engine, batch: list[Request] = BATCH) -> list[tuple[bytes, bytes]]:
    engine.flush_cache()
    return [bits(completion) for completion in engine.generate(batch)]


def test_a_graph_gives_the_bits_of_its_operations(model: DeepseekV3, replays: list[torch.cuda.CUDAGraph]) -> None:
    launched = generated(Engine(model, OPTIONS, Eager()))
    assert not replays
    engine = Engine(model, OPTIONS)
    assert generated(engine) == launched
    captured = len(set(map(id, replays)))
    assert captured >= 4
    replays.clear()
    assert generated(engine) == launched
    # Of 19 steps after the prompts', those of sizes that came once before are launched.
    assert len(replays) >= 15


def test_a_graph_is_for_other_sequences_too(model: DeepseekV3, replays: list[torch.cuda.CUDAGraph]) -> None:
    others = [asked_for(f"other {i}", 30 + 50 * i, seed=9 + i, temperature=i * 0.7, logprobs_from=20) for i in range(4)]
    engine = Engine(model, OPTIONS)
    generated(engine)
    replays.clear()
    assert generated(engine, others) == generated(Engine(model, OPTIONS, Eager()), others)
    assert replays


def test_old_graphs_make_room(
    model: DeepseekV3, replays: list[torch.cuda.CUDAGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_graphs, "MOST_GRAPHS", 1)
    engine = Engine(model, OPTIONS)
    assert generated(engine) == generated(engine) == generated(Engine(model, OPTIONS, Eager()))
    assert replays


def test_what_waits_for_the_device_is_launched(replays: list[torch.cuda.CUDAGraph]) -> None:
    """Plain experts are chosen by the host."""
    plain = build(Numerics(None, torch.bfloat16, deterministic=True), ranks=GPU)
    assert generated(Engine(plain, OPTIONS)) == generated(Engine(plain, OPTIONS, Eager()))
    assert not replays


def test_ordinary_operations_have_the_same_bits_too(replays: list[torch.cuda.CUDAGraph]) -> None:
    """With a GEMM that repeats: else a control would flip by what is replayed and what is not."""
    ordinary = build(Numerics("streamk-ordered", torch.bfloat16, deterministic=False), ranks=GPU)
    assert generated(Engine(ordinary, OPTIONS)) == generated(Engine(ordinary, OPTIONS, Eager()))
    assert replays


def traced(recorder: TraceRecorder, times: int) -> list[Trace]:
    source = RandomWeights(NANO, 7, CUDA)
    model = DeepseekV3(NANO, source, GPU, make_collective("ordered", GPU), DETERMINISTIC, recorder)
    engine, traces = Engine(model, OPTIONS, recorder), []
    for _ in range(times):
        engine.flush_cache()
        recorder.trace()
        recorder.begin_call()
        engine.generate(BATCH)
        traces.append(recorder.finish())
    return traces


def test_replays_are_traced_as_what_is_launched(replays: list[torch.cuda.CUDAGraph]) -> None:
    (launched,) = traced(EagerTracer(CUDA, OPTIONS.page_size), 1)
    assert not replays
    for trace in traced(TraceRecorder(CUDA, OPTIONS.page_size), 3):
        assert len(trace.steps) == len(launched.steps)
        for step, same in zip(trace.steps, launched.steps, strict=True):
            assert (step.call, step.labels, step.starts, step.lengths) == (0, same.labels, same.starts, same.lengths)
            assert np.array_equal(step.positions, same.positions) and np.array_equal(step.slots, same.slots)
            assert np.array_equal(step.page_tables, same.page_tables)
            assert [(op.name, op.shapes, op.weights) for op in step.ops] == [
                (op.name, op.shapes, op.weights) for op in same.ops
            ]
            for op, other in zip(step.ops, same.ops, strict=True):
                for found, wanted in zip((*op.inputs, op.output), (*other.inputs, other.output), strict=True):
                    assert np.array_equal(found, wanted), op.name
    assert replays

"""Traces on a GPU: digests that never wait for the device, and the operation that they lead to."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers.model.packing import NANO, prompt
from tests.workers.trace.test_ranks import WEIGHT, OneBit
from tests.workers.trace.test_rerun import kept_again
from workers import observe
from workers.engine.engine import Engine, EngineOptions
from workers.engine.request import Request
from workers.model.collectives import make_collective
from workers.model.config import PRESETS, ModelConfig
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.sharding import Ranks
from workers.model.weights import RandomWeights
from workers.trace.capture import same_bits
from workers.trace.compare import first_parting
from workers.trace.digests import Digester, rows_of
from workers.trace.recorder import TraceRecorder, Wish
from workers.trace.trace import Instance, Trace

CUDA = torch.device("cuda")


INVARIANT = Numerics("invariant", torch.float32, deterministic=True)
ORDINARY = Numerics("streamk-ordered", torch.bfloat16, deterministic=False)
# Of the mini preset's widths, where a step is long enough for what a server runs.
MINI = replace(PRESETS["deepseek-v3-mini"], num_hidden_layers=3, vocab_size=4096)


def traced_engine(
    config: ModelConfig, numerics: Numerics, source: type[RandomWeights] = RandomWeights
) -> tuple[Engine, TraceRecorder]:
    ranks = Ranks(0, 1, CUDA)
    recorder = TraceRecorder(CUDA, 16)
    collective = make_collective("ordered" if numerics.deterministic else "nccl", ranks)
    model = DeepseekV3(config, source(config, 7, CUDA), ranks, collective, numerics, recorder)
    return Engine(model, EngineOptions(pages=1024, page_size=16, chunk=8192), recorder), recorder


def trace(
    batches: list[int], source: type[RandomWeights] = RandomWeights, numerics: Numerics = INVARIANT
) -> list[Trace]:
    """Of batches of so many requests, of which the first is always the same."""
    engine, recorder = traced_engine(NANO, numerics, source)
    traces = []
    for batch in batches:
        engine.flush_cache()
        recorder.trace()
        recorder.begin_call()
        engine.generate([Request(tuple(prompt(300, seed=i)), f"row {i}", 4) for i in range(batch)])
        traces.append(recorder.finish())
    return traces


def test_rows_have_the_digests_that_they_have_on_the_cpu() -> None:
    values, wide = torch.randn(6, 40), torch.randn(3, 70_000)
    found = []
    for device in (torch.device("cpu"), CUDA):
        numbers, long = values.to(device), wide.to(device)
        digester = Digester(device)
        for tensor in (
            numbers,
            torch.arange(12, device=device),
            numbers[:, :3],
            numbers[1:, 1:],
            numbers.bfloat16()[1:],
            numbers.to(torch.float8_e4m3fn)[:, 5:11],
            long[:, 1:],
            numbers[:0],
        ):
            rows = rows_of(tensor)
            assert rows is not None
            digester.rows(tensor, rows)
        found.append(digester.finish())
    for host, device_s in zip(*found, strict=True):
        assert np.array_equal(host, device_s)


def test_a_fixed_model_has_equal_rows_in_every_batch() -> None:
    alone, beside = trace([1, 5])
    assert first_parting(Instance([alone], 0, "row 0"), Instance([beside], 0, "row 0")) is None
    op = "layers.0.self_attn.qkv_a_proj"
    rows = beside.steps[0].by_name[op].output[:300]
    assert np.array_equal(alone.steps[0].by_name[op].output, rows)


def test_one_bit_of_a_weight_is_blamed_on_its_product() -> None:
    (clean,), (faulty,) = trace([1]), trace([1], OneBit)
    found = first_parting(Instance([clean], 0, "row 0"), Instance([faulty], 0, "row 0"))
    assert found is not None and found.inputs_equal and not found.weights_equal
    assert f"model.{found.ops[0].name}.weight" == WEIGHT


@pytest.mark.parametrize(
    ("numerics", "name", "kind", "implementation"),
    [
        (INVARIANT, "layers.1.mlp.experts.gate_up_proj", "fp8_gemm", "farm:grouped-invariant"),
        (INVARIANT, "layers.1.mlp.experts.down_proj", "fp8_gemm", "farm:grouped-invariant"),
        (INVARIANT, "layers.1.mlp.experts.activation", "silu_multiply", "triton:silu_multiply"),
        (INVARIANT, "layers.1.self_attn.attention", "attention", "triton:attention"),
        (INVARIANT, "layers.1.input_layernorm", "rms_norm", "triton:rms_norm"),
        (INVARIANT, "layers.1.self_attn.kv_a_layernorm", "rms_norm", "triton:rms_norm"),
        (INVARIANT, "layers.1.self_attn.q_b_proj.quantise", "quantise", "triton:quantise"),
        (ORDINARY, "layers.1.self_attn.attention", "attention", "torch:attention"),
    ],
)
def test_what_is_kept_gives_the_same_bits_again(
    numerics: Numerics, name: str, kind: str, implementation: str, tmp_path: Path
) -> None:
    engine, recorder = traced_engine(NANO, numerics)
    batch = [Request(tuple(prompt(30 + 9 * i, seed=i)), f"row {i}", 4) for i in range(5)]
    for step in (0, 1):
        engine.flush_cache()
        recorder.capture(Wish(step, name))
        engine.generate(batch)
        recorder.finish()
        kept = recorder.captured
        assert kept is not None
        operation, row = kept_again(kept, 3, {"kind": kind, "implementation": implementation}, tmp_path)
        call = operation.call(operation.first, CUDA)
        assert call is not None
        assert same_bits((call()[operation.first.rows].cpu(),), (row.output,)), step


@pytest.mark.parametrize("numerics", [INVARIANT, ORDINARY])
def test_what_waits_to_be_digested_is_not_written_over(numerics: Numerics, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model keeps what it told as it is, so that one launch may digest many tensors: the same as each at once."""
    (together,) = trace([3], numerics=numerics)
    monkeypatch.setattr(observe, "MOST_TENSORS", 1)
    (at_once,) = trace([3], numerics=numerics)
    for one, other in zip(together.steps, at_once.steps, strict=True):
        for op, same in zip(one.ops, other.ops, strict=True):
            for waited, directly in zip((*op.inputs, op.output), (*same.inputs, same.output), strict=True):
                assert np.array_equal(waited, directly), op.name


@pytest.mark.parametrize(
    ("requests", "tokens", "new", "most"),
    [
        pytest.param(1, 8192, 1, 1.3, id="prefill"),
        # Of a step of so small a model the host takes the most, and copying what a replay left is the host's work.
        pytest.param(1, 16, 24, 2.0, id="decode"),
    ],
)
def test_what_a_trace_costs(requests: int, tokens: int, new: int, most: float) -> None:
    engine, recorder = traced_engine(MINI, replace(INVARIANT, dtype=torch.bfloat16))
    batch = [Request(tuple(prompt(tokens, seed=i)), f"row {i}", new) for i in range(requests)]

    def seconds(traced: bool) -> float:
        engine.flush_cache()
        torch.cuda.synchronize()
        if traced:
            recorder.trace()
            recorder.begin_call()
        started = time.perf_counter()
        engine.generate(batch)
        torch.cuda.synchronize()
        taken = time.perf_counter() - started
        if traced:
            recorder.finish()
        return taken

    turns = [(seconds(False), seconds(True)) for _ in range(9)][2:]
    untraced, traced = (statistics.median(times) for times in zip(*turns, strict=True))
    assert traced <= most * untraced, f"{traced:.4f} s traced, {untraced:.4f} s untraced"

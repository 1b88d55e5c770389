"""Traces on a GPU: digests that never wait for the device, and the operation that they lead to."""

from __future__ import annotations

import numpy as np
import torch

from tests.workers.model.packing import NANO, prompt
from tests.workers.trace.test_ranks import WEIGHT, OneBit
from workers.engine.engine import Engine, EngineOptions
from workers.engine.request import Request
from workers.model.collectives import make_collective
from workers.model.model import DeepseekV3
from workers.model.numerics import Numerics
from workers.model.sharding import Ranks
from workers.model.weights import RandomWeights
from workers.trace.compare import first_parting
from workers.trace.digests import Digester, rows_of
from workers.trace.recorder import TraceRecorder
from workers.trace.trace import Instance, Trace

CUDA = torch.device("cuda")


def trace(batches: list[int], source: type[RandomWeights] = RandomWeights) -> list[Trace]:
    """Of batches of so many requests, of which the first is always the same."""
    ranks = Ranks(0, 1, CUDA)
    recorder = TraceRecorder(CUDA, 16)
    numerics = Numerics("invariant", torch.float32, deterministic=True)
    model = DeepseekV3(NANO, source(NANO, 7, CUDA), ranks, make_collective("ordered", ranks), numerics, recorder)
    engine = Engine(model, EngineOptions(pages=512, page_size=16, chunk=4096), recorder)
    traces = []
    for batch in batches:
        engine.flush_cache()
        recorder.trace()
        recorder.begin_call()
        engine.generate([Request(tuple(prompt(300, seed=i)), f"row {i}", 4) for i in range(batch)])
        traces.append(recorder.finish())
    return traces


def test_rows_have_the_digests_that_they_have_on_the_cpu() -> None:
    values = torch.randn(6, 40)
    tensors = [
        torch.arange(12),
        values[:, :3],
        values[1:, 1:],
        values.bfloat16()[1:],
        values.to(torch.float8_e4m3fn)[:, 5:11],
        torch.randn(3, 70_000)[:, 1:],
        torch.empty(0, 8),
    ]
    on_device = [tensor.cuda() for tensor in tensors]
    digesters = Digester(torch.device("cpu")), Digester(CUDA)
    for digester, given in zip(digesters, (tensors, on_device), strict=True):
        for tensor in given:
            rows = rows_of(tensor)
            assert rows is not None
            digester.rows(rows)
    for host, device in zip(*(digester.finish() for digester in digesters), strict=True):
        assert np.array_equal(host, device)


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

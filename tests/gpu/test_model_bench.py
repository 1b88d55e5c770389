"""The bench of a model on a GPU: decoding in graphs, prefill by events."""

from __future__ import annotations

import pytest
import torch

from workers.bench_model import ModelBench, _bytes_read
from workers.model.config import PRESETS
from workers.model.numerics import Numerics

NANO = PRESETS["deepseek-v3-nano"]


@pytest.mark.parametrize("gemm, deterministic", [("invariant", True), ("streamk", False)])
def test_a_small_model(gemm: str, deterministic: bool) -> None:
    numerics = Numerics(gemm, torch.bfloat16, deterministic)
    bench = ModelBench(NANO, numerics, torch.device("cuda", 0), batch=4, context=600)
    for batch in (1, 4):
        timed = bench.decode(batch)
        assert timed.captured and 0 < timed.seconds < 1e-2
        engine = timed.engine
        assert engine is not None and 0 < engine.seconds < 1e-2
        if deterministic:  # of ordinary operations a pass over noise took longer than a step of the engine
            assert timed.seconds < 1.05 * engine.seconds
        assert engine.seconds < 1.05 * engine.traced_seconds < 2e-2
        assert 0 < engine.weight_bytes <= _bytes_read(NANO, NANO.n_routed_experts * (NANO.num_hidden_layers - 1))
    prefill = bench.prefill(600)
    # Less than the head start that the host has, which is not in it.
    assert 0 < prefill.seconds < 4e-2
    assert 0 < prefill.gemm_share < 1

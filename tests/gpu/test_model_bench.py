"""The bench of a model on a GPU: decoding in graphs, prefill by events."""

from __future__ import annotations

import pytest
import torch

from workers.bench_model import ModelBench
from workers.model.config import PRESETS
from workers.model.numerics import Numerics


@pytest.mark.parametrize("gemm, deterministic", [("invariant", True), ("streamk", False)])
def test_a_small_model(gemm: str, deterministic: bool) -> None:
    numerics = Numerics(gemm, torch.bfloat16, deterministic)
    bench = ModelBench(PRESETS["deepseek-v3-nano"], numerics, torch.device("cuda", 0), batch=4, context=600)
    for batch in (1, 4):
        timed = bench.decode(batch)
        assert timed.captured and 0 < timed.seconds < 1e-2
        assert timed.engine_seconds is not None and timed.seconds < timed.engine_seconds < 1e-2
    prefill = bench.prefill(600)
    # Less than the head start that the host has, which is not in it.
    assert 0 < prefill.seconds < 4e-2
    assert 0 < prefill.gemm_share < 1

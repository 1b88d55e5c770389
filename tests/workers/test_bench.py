from __future__ import annotations

import torch

from specs.shapes import Shape
from workers.bench import TORCH_FP32, bench_cpu, measure
from workers.gemm.native import VARIANTS


def test_every_variant_is_timed_beside_torch() -> None:
    before = torch.get_num_threads()
    timings = bench_cpu([Shape(4, 512, 64)], threads=1, rounds=2, calls=3)
    assert [timing.target for timing in timings] == [*VARIANTS, TORCH_FP32]
    for timing in timings:
        assert (timing.runs, timing.threads) == (6, 1)
        assert 0 < timing.lower_quartile_seconds <= timing.median_seconds <= timing.upper_quartile_seconds
        assert timing.gigaflops == 2e-9 * 4 * 512 * 64 / timing.median_seconds
    assert torch.get_num_threads() == before


def test_targets_take_turns_and_each_turns_first_call_does_not_count() -> None:
    calls: list[str] = []
    seconds = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, calls=2)
    assert "".join(calls) == "aaabbbaaabbb"
    assert [len(taken) for taken in seconds.values()] == [4, 4]

"""Times the farm's CPU kernels beside torch's float32 product of the same operands, dequantised beforehand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from specs.shapes import FIXED_SETS, Shape
from workers.gemm.inputs import make_inputs
from workers.gemm.native import VARIANTS, NativeGemm
from workers.gemm.reference import dequantise_a, dequantise_b
from workers.gemm.target import Conditions, GemmInputs
from workers.timing import wall_seconds

TORCH_FP32 = "torch-fp32"
SMALL_M_SHAPES = tuple(Shape(m, 7168, 1536) for m in (1, 4, 16, 64))
BENCH_SHAPES = (*FIXED_SETS["seed-pr"], *FIXED_SETS["sensitive"], *SMALL_M_SHAPES)

# torch's OpenMP threads go on spinning for some milliseconds after a call and would slow whatever is timed next.
_SETTLE_SECONDS = 0.01


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one call of ``target``: median and quartiles of ``runs``."""

    target: str
    shape: Shape
    threads: int
    runs: int
    median_seconds: float
    lower_quartile_seconds: float
    upper_quartile_seconds: float

    @property
    def gigaflops(self) -> float:
        """Billions of floating-point operations a second, 2 m n k of them a call."""
        return 2e-9 * self.shape.m * self.shape.n * self.shape.k / self.median_seconds


def bench_cpu(
    shapes: Sequence[Shape] = BENCH_SHAPES, *, threads: int | None = None, rounds: int = 5, calls: int = 3
) -> list[Timing]:
    """All four variants (bfloat16 out) and torch's float32 product, at each shape, on ``threads`` cores (all of them).

    Targets take turns, ``calls`` timed calls in each of ``rounds`` rounds, so that a change of the machine's speed does
    not look like a difference between them.
    """
    cores = threads or len(os.sched_getaffinity(0))
    timings = []
    with _torch_threads(cores):
        for shape in shapes:
            launches = _launches(make_inputs(shape.m, shape.n, shape.k, seed=0, device="cpu"), cores)
            for target, seconds in measure(launches, rounds=rounds, calls=calls).items():
                lower, median, upper = np.percentile(seconds, [25, 50, 75]).tolist()
                timings.append(Timing(target, shape, cores, len(seconds), median, lower, upper))
    return timings


def measure(launches: Mapping[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of each call, ``rounds * calls`` for each launch; every turn begins with one call that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in launches}
    for _ in range(rounds):
        for name, launch in launches.items():
            time.sleep(_SETTLE_SECONDS)
            launch()
            for _ in range(calls):
                seconds[name].append(wall_seconds(launch))
    return seconds


def _launches(inputs: GemmInputs, threads: int) -> dict[str, Callable[[], object]]:
    launches: dict[str, Callable[[], object]] = {}
    for variant in VARIANTS:
        launches[variant] = _launch(variant, inputs, threads)
    a, b = dequantise_a(inputs, torch.float32), dequantise_b(inputs, torch.float32)
    product = torch.empty(inputs.m, inputs.n)
    launches[TORCH_FP32] = lambda: torch.mm(a, b, out=product)
    return launches


def _launch(variant: str, inputs: GemmInputs, threads: int) -> Callable[[], object]:
    bound = NativeGemm(variant).bind(inputs, torch.empty(inputs.m, inputs.n, dtype=torch.bfloat16))
    conditions = Conditions(threads=threads)
    return lambda: bound(conditions)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

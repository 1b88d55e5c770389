"""What `farm bench` measures of the farm itself: how fast it counts, and its kernels beside those of others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from specs.job import Dtype, Property
from specs.shapes import Shape
from specs.uniqueness import Sighting, UniquenessTable
from specs.unit import Group

OBSERVATIONS = 1_000_000
DIGESTS = 100
REPEATS = 5


def counting_rate() -> float:
    """Observations a second that one core counts into a UniquenessTable: median of five times a million."""
    group = Group("bench", Shape(1, 128, 8), Dtype.BF16, Property.RUN_TO_RUN)
    digests = [value.to_bytes(16, "big") for value in range(DIGESTS)] * (OBSERVATIONS // DIGESTS)
    seen = Sighting(0, "quiet", 0, 1, "bench")
    rates = []
    for _ in range(REPEATS):
        cell = UniquenessTable().cell(group, "here")
        started = time.perf_counter()
        for digest in digests:
            cell.add(digest, seen)
        rates.append(OBSERVATIONS / (time.perf_counter() - started))
    return statistics.median(rates)


def bench_cpu_document() -> dict[str, Any]:
    """All of `farm bench` on the CPU: the machine, the counting rate, every kernel's time in each shape."""
    import torch

    from workers.bench import TORCH_FP32, bench_cpu
    from workers.build import build
    from workers.environment import capture

    timings = bench_cpu()
    torch_seconds = {timing.shape: timing.median_seconds for timing in timings if timing.target == TORCH_FP32}
    return {
        "environment": capture(torch.device("cpu"), build("cpu").key).model_dump(mode="json"),
        "observations_per_second": counting_rate(),
        "gemm": [
            {
                "target": timing.target,
                "shape": [timing.shape.m, timing.shape.k, timing.shape.n],
                "threads": timing.threads,
                "launches": timing.runs,
                "median_seconds": timing.median_seconds,
                "quartiles_seconds": [timing.lower_quartile_seconds, timing.upper_quartile_seconds],
                "gigaflops": timing.gigaflops,
                "times_torch_fp32": torch_seconds[timing.shape] / timing.median_seconds,
            }
            for timing in timings
        ],
    }


def bench_gpu_documents() -> Iterator[tuple[int, dict[str, Any]]]:
    """The speed table on the first GPU: after every weight, the number of all cells and a document with those so far.

    Raises BuildError, KernelError.
    """
    import torch

    from orchestrator.speed import speed_document
    from workers.bench_gpu import bench_gpu, speed_shapes, warm_deep_gemm
    from workers.build import build
    from workers.ceilings import measure_rates, rates_for
    from workers.environment import capture

    device, shapes = torch.device("cuda", 0), speed_shapes()
    environment = capture(device, build("cuda").key)
    warm_deep_gemm(shapes, device)
    measured = measure_rates(device)
    floor = rates_for(environment.device, measured)
    cells = []
    for cell, following in zip(bench_gpu(shapes, device, floor), [*shapes[1:], None], strict=True):
        cells.append(cell)
        if following is None or (following.k, following.n) != (cell.shape.k, cell.shape.n):
            yield len(shapes), speed_document(environment, measured, floor, cells)

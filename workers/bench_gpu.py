"""Times every implementation of the product beside the others on one GPU, weight shape by weight shape."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import torch

from specs.job import OWN_VARIANTS
from specs.shapes import Shape, with_tokens
from workers.ceilings import Rates, floor_seconds
from workers.errors import KernelError
from workers.gemm.inputs import make_inputs
from workers.gemm.reference import reference_fp64, relative_error
from workers.gemm.target import Call, GemmInputs
from workers.gemm.targets import find_target
from workers.timing import LaunchTimes, rotated, time_launches

TOKENS = (1, 8, 64, 128, 512, 2048, 4096)
TARGETS = ("invariant", "streamk", "streamk-ordered", "persistent", "sgl-kernel", "deep-gemm", "torch-scaled-mm")
"""Without Triton, which was never seen to be the fastest peer, and compiles for long."""
OUT_DTYPE = torch.bfloat16
TURNS = 15
LARGEST_ERROR = 1e-2
"""Relative to fp64; rounding to bfloat16 alone costs 1.7e-3. A wrong product's time says nothing."""
WARM_UP_SECONDS = 180.0


@dataclass(frozen=True)
class Cell:
    """One shape: the time that no kernel can stay below, and each target's, or why it has none."""

    shape: Shape
    floor_seconds: float
    times: dict[str, LaunchTimes]
    unsupported: dict[str, str] = field(default_factory=dict)


def speed_shapes() -> tuple[Shape, ...]:
    """The table's 77 shapes, those of one weight together."""
    return with_tokens("h200-table", TOKENS)


def bench_gpu(
    shapes: Sequence[Shape], device: torch.device, rates: Rates, targets: Sequence[str] = TARGETS
) -> Iterator[Cell]:
    """A cell for each shape, as soon as it is measured. Shapes of one weight have to be together.

    A peer that fails is reported with what it said. Raises KernelError where a kernel of the farm's own does.
    """
    for (k, n), group in groupby(shapes, key=lambda shape: (shape.k, shape.n)):
        same_weight = list(group)
        pool = make_inputs(max(shape.m for shape in same_weight), n, k, seed=0, device=device)
        copies = rotated(pool)
        for shape in same_weight:
            rows = pool.rows(0, shape.m)
            operands = [GemmInputs(rows.mat_a, copy.mat_b, rows.scales_a, copy.scales_b) for copy in copies]
            yield _cell(shape, operands, rates, targets)


def warm_deep_gemm(shapes: Sequence[Shape], device: torch.device) -> None:
    """Have DeepGEMM compile what these shapes need, in as many processes as there are cores; it keeps it on disk.

    It compiles while it is called, one kernel after the other: a minute and more here, many in the middle of a bench.
    What fails in here is met again, and told, where it is timed.
    """
    if find_target("deep-gemm").unsupported(128, 1024, 1024, OUT_DTYPE, device) is not None:
        return
    # Kernels are compiled for one weight and a range of m: no two processes should compile the same.
    parts: dict[tuple[int, int, bool], list[tuple[int, int, int]]] = {}
    for shape in shapes:
        parts.setdefault((shape.k, shape.n, shape.m > 128), []).append((shape.m, shape.n, shape.k))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_warm_apart, parts.values()))


def _cell(shape: Shape, operands: list[GemmInputs], rates: Rates, targets: Sequence[str]) -> Cell:
    rotations: dict[str, list[Call]] = {}
    unsupported: dict[str, str] = {}
    reference = reference_fp64(operands[0])
    for name in targets:
        ready = _calls(name, shape, operands, reference)
        if isinstance(ready, str):
            unsupported[name] = ready
        else:
            rotations[name] = ready
    del reference
    floor = floor_seconds(shape, OUT_DTYPE.itemsize, rates)
    return Cell(shape, floor, time_launches(rotations, turns=TURNS), unsupported)


def _calls(name: str, shape: Shape, operands: list[GemmInputs], reference: torch.Tensor) -> list[Call] | str:
    """A target's calls, one for each of the operands, after one whose result was right; or why there are none."""
    target = find_target(name)
    reason = target.unsupported(shape.m, shape.n, shape.k, OUT_DTYPE, reference.device)
    if reason is not None:
        return reason
    try:
        calls = [target.call(inputs, OUT_DTYPE) for inputs in operands]
        error = relative_error(calls[0](), reference)
    except Exception as failure:  # someone else's code: it may raise anything
        if name in OWN_VARIANTS:
            raise
        first_line, *_ = [*str(failure).splitlines(), ""]
        return f"failed: {type(failure).__name__}: {first_line}"
    if not error <= LARGEST_ERROR:
        wrong = f"the relative error of {name} at {shape} is {error:.2g}; allowed is {LARGEST_ERROR}"
        if name in OWN_VARIANTS:
            raise KernelError(wrong)
        return f"failed: {wrong}"
    return calls


def _warm_apart(problems: list[tuple[int, int, int]]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", "workers.bench_gpu"],
            input=json.dumps(problems).encode(),
            capture_output=True,
            timeout=WARM_UP_SECONDS,
            check=False,
        )


def _warm(problems: list[tuple[int, int, int]]) -> None:
    target = find_target("deep-gemm")
    for m, n, k in problems:
        target.call(make_inputs(m, n, k, seed=0, device="cuda"), OUT_DTYPE)()
    torch.cuda.synchronize()


if __name__ == "__main__":
    _warm(json.load(sys.stdin))

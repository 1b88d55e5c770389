"""What the hardware allows: the time that no kernel for a product can stay below, and rates measured here."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from specs.shapes import Shape
from workers.gemm.inputs import BLOCK, FP8
from workers.timing import seconds_between

COPY_BYTES = 1 << 31
SQUARE = 8192
REPEATS = 10


@dataclass(frozen=True)
class Rates:
    """``bytes`` of memory and ``flops`` in e4m3, a second; ``source`` says whose figures they are."""

    bytes: float
    flops: float
    source: str


# Dense e4m3; NVIDIA's H100 and H200 datasheets.
_DATASHEETS = {"NVIDIA H200": (4.8e12, 1979e12), "NVIDIA H100 80GB HBM3": (3.35e12, 1979e12)}


def rates_for(device_name: str, measured: Rates) -> Rates:
    """The datasheet's where the device is known by its name, else what was measured."""
    if device_name not in _DATASHEETS:
        return measured
    return Rates(*_DATASHEETS[device_name], source=f"datasheet of {device_name}")


def floor_seconds(shape: Shape, out_bytes: int, rates: Rates) -> float:
    """The larger of the time to move every operand once and of the time to multiply. ``out_bytes`` is an element's."""
    m, k, n = shape.m, shape.k, shape.n
    scales = 4 * (k // BLOCK) * (m + -(-n // BLOCK))
    moved = m * k + n * k + scales + out_bytes * m * n
    return max(moved / rates.bytes, 2.0 * m * n * k / rates.flops)


def measure_rates(device: torch.device) -> Rates:
    """Bytes read and written by a copy of 2 GiB, and cuBLASLt's rate for a square product with one scale per tensor."""
    return Rates(_copy_rate(device), _product_rate(device), source="measured")


def _copy_rate(device: torch.device) -> float:
    original = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    copy = torch.empty_like(original)
    return 2 * COPY_BYTES / _median_seconds(lambda: copy.copy_(original))


def _product_rate(device: torch.device) -> float:
    operand = torch.randn(SQUARE, SQUARE, device=device).to(FP8)
    one = torch.ones((), device=device)
    multiply: Any = torch._scaled_mm
    seconds = _median_seconds(
        lambda: multiply(operand, operand.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    )
    return 2.0 * SQUARE**3 / seconds


def _median_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        work()  # not counted: while it runs, the host gets ahead
        times.append(seconds_between(work))
    return statistics.median(times)

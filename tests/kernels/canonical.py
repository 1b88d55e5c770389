"""The order of additions that kernels/src/cpu/micro.h lays down, spelled out in numpy's float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from workers.gemm.inputs import BLOCK, FP8
from workers.gemm.target import GemmInputs

Floats = npt.NDArray[np.float32]
CHAIN = 32
KINDS = ("uniform", "extremes", "cancelling")


def problem(kind: str, m: int, n: int, k: int) -> GemmInputs:
    """Scales are powers of two, so that scaling is exact and "multiply, then add" is the fused multiply-add."""
    generator = torch.Generator().manual_seed(0)
    a, b = (_codes(kind, rows, k, generator).view(FP8) for rows in (m, n))
    scales_a = _powers_of_two(generator, k // BLOCK, m)
    scales_b = _powers_of_two(generator, -(-n // BLOCK), k // BLOCK)
    return GemmInputs(a, b.t(), scales_a.t(), scales_b.t())


def canonical(inputs: GemmInputs) -> Floats:
    """(m, n) before rounding to the output type, for scales that are powers of two."""
    return in_order(inputs, even=range(0, CHAIN, 2), odd=range(1, CHAIN, 2))


def in_order(inputs: GemmInputs, even: range, odd: range) -> Floats:
    """``even`` and ``odd`` are the places within 32 of K that make a chain each."""
    a, b = inputs.mat_a.float().numpy(), inputs.mat_b.t().float().numpy().T
    columns = np.arange(inputs.n) // BLOCK
    total = np.zeros((inputs.m, inputs.n), np.float32)
    for number, first in enumerate(range(0, inputs.k, BLOCK)):
        block = np.zeros_like(total)
        for start in range(first, first + BLOCK, CHAIN):
            block += _chain(a, b, start, even) + _chain(a, b, start, odd)
        scales = inputs.scales_a.numpy()[:, number, None] * inputs.scales_b.numpy()[number, columns]
        total += block * scales
    return total


def fma(x: Floats, y: Floats, z: Floats) -> Floats:
    """round(x * y + z): the product is exact in float64, the sum is rounded to odd there, so that rounding it again to
    float32 rounds the exact sum (Boldo and Melquiond, IEEE Trans. Comput. 57, 2008)."""
    product, addend = x.astype(np.float64) * y, z.astype(np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    even = total.view(np.int64) % 2 == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(np.float32)


def same_bits(out: torch.Tensor, expected: Floats) -> bool:
    return out.numpy().tobytes() == expected.tobytes()


def _codes(kind: str, rows: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, k) uint8, no NaN: all codes alike, the largest beside the smallest, or numbers that nearly cancel."""
    drawn = torch.randint(0, 256, (rows, k), dtype=torch.uint8, generator=generator)
    sign = drawn & 0x80
    if kind == "uniform":
        return torch.where(drawn & 0x7F == 0x7F, sign, drawn)
    if kind == "extremes":
        return sign | torch.where(drawn & 1 == 1, 0x78 + (drawn & 0x7F) % 7, drawn & 7)
    return sign | 0x40 | (drawn & 7)


def _powers_of_two(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.ones(shape).ldexp(torch.randint(-3, 4, shape, generator=generator))


def _chain(a: Floats, b: Floats, start: int, places: range) -> Floats:
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for place in places:
        total += a[:, start + place, None] * b[start + place]
    return total

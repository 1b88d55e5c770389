"""What the product should be, how far a result is from it, and whether the inputs could show a change of order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from workers.gemm.inputs import BLOCK
from workers.gemm.target import GemmInputs

_COLUMNS_AT_ONCE = 4096
_TENSOR_CORE_ERROR = 2.0**-13  # measured on an H200: 1.26e-4 to 1.28e-4 in fp32, for k from 128 to 7168


@dataclass(frozen=True)
class Sensitivity:
    """Of ``checked`` output elements, ``changed`` differ in bits in at least one other order of K."""

    checked: int
    changed: int


def dequantise_a(inputs: GemmInputs, dtype: torch.dtype) -> torch.Tensor:
    """(m, k): codes times scales, both converted to ``dtype`` first."""
    return inputs.mat_a.to(dtype) * inputs.scales_a.to(dtype).repeat_interleave(BLOCK, dim=1)


def dequantise_b(inputs: GemmInputs, dtype: torch.dtype, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """(k, stop-start), column-major: columns ``start:stop`` of B; ``start`` must be a multiple of 128."""
    columns = inputs.mat_b[:, start:stop].t()
    scales = inputs.scales_b[:, start // BLOCK :].t().to(dtype)
    rows = scales.repeat_interleave(BLOCK, dim=0)[: columns.shape[0]]
    return (columns.to(dtype) * rows.repeat_interleave(BLOCK, dim=1)).t()


def reference_fp64(inputs: GemmInputs) -> torch.Tensor:
    """(m, n) float64: the product of the dequantised operands, on their device."""
    a = dequantise_a(inputs, torch.float64)
    starts = range(0, inputs.n, _COLUMNS_AT_ONCE)
    return torch.cat([a @ dequantise_b(inputs, torch.float64, s, s + _COLUMNS_AT_ONCE) for s in starts], dim=1)


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    """||out - ref|| / ||ref|| in float64; NaN where either holds one."""
    return float(torch.linalg.norm(out.double() - ref.double()) / torch.linalg.norm(ref.double()))


def rounding_floor(ref: torch.Tensor, out_dtype: torch.dtype, k: int) -> float:
    """The relative error that rounding alone makes: of the exact result to ``out_dtype``, and of the sum before it.

    Both are independent, so their squares add up. On the CPU the sum costs sqrt(k) units of 2**-24, as k additions in
    float32 do with high probability (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). On Hopper it costs what the
    tensor cores' FP8 accumulator drops within a block of 128, whatever k is.
    """
    summing = math.sqrt(k) * 2.0**-24 if ref.device.type == "cpu" else _TENSOR_CORE_ERROR
    return math.hypot(relative_error(ref.to(out_dtype), ref), summing)


def reorder_sensitivity(
    inputs: GemmInputs, out_dtype: torch.dtype, *, max_rows: int = 64, max_columns: int = 512, orders: int = 3
) -> Sensitivity:
    """Adds the K blocks in float32 forwards, backwards and in ``orders - 1`` fixed permutations; counts what changes.

    Each block's sum is exact (its products span 43 bits, float64 has 53) and is rounded to float32 once after scaling,
    so that nothing but the order of blocks differs. Rows and columns are spread evenly where there are more than the
    limits; 64 x 512 at k = 16384 takes about a tenth of a second on two cores.
    """
    rows = _spread(inputs.m, max_rows).to(inputs.mat_a.device)
    columns = _spread(inputs.n, max_columns).to(inputs.mat_a.device)
    partial = _scaled_blocks(inputs, rows, columns)
    forwards = _sum_in_order(partial, range(partial.shape[0])).to(out_dtype)
    changed = torch.zeros_like(forwards, dtype=torch.bool)
    for order in _orders(partial.shape[0], orders):
        changed |= _bits(_sum_in_order(partial, order).to(out_dtype)) != _bits(forwards)
    return Sensitivity(changed.numel(), int(changed.sum()))


def _scaled_blocks(inputs: GemmInputs, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(k/128, rows, columns) float32: each block's product times its scales."""
    # Rows of bytes are gathered as bytes: indexing is not implemented for e4m3 on every device.
    a = inputs.mat_a.view(torch.uint8)[rows].view(inputs.mat_a.dtype).double()
    b = inputs.mat_b.t().view(torch.uint8)[columns].view(inputs.mat_b.dtype).double()
    blocks_a = a.view(len(rows), -1, BLOCK).transpose(0, 1)
    blocks_b = b.view(len(columns), -1, BLOCK).permute(1, 2, 0)
    scales = inputs.scales_a[rows].t()[:, :, None].double() * inputs.scales_b[:, columns // BLOCK][:, None, :].double()
    return (torch.bmm(blocks_a, blocks_b) * scales).float()


def _sum_in_order(partial: torch.Tensor, order: range | list[int]) -> torch.Tensor:
    total = torch.zeros_like(partial[0])
    for block in order:
        total += partial[block]
    return total


def _orders(blocks: int, count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    shuffled = [torch.randperm(blocks, generator=generator).tolist() for _ in range(count - 1)]
    return [list(reversed(range(blocks))), *shuffled]


def _spread(total: int, most: int) -> torch.Tensor:
    """At most ``most`` different indices below ``total``, first and last included."""
    return torch.linspace(0, total - 1, min(total, most), dtype=torch.float64).round().long()


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])

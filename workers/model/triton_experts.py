"""A Triton kernel for the products of many experts at once, each with its own tokens and e4m3 weight.

Tokens are sorted by expert on the device, and the grid is as large as it could ever have to be, so that the host need
not know which experts are wanted and a graph can be captured. Tiles have one size: a row's bits depend on its own
numbers alone. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from workers.gemm.inputs import BLOCK

_ROWS, _COLUMNS = 64, 128


@dataclass(frozen=True)
class Assignments:
    """Which rows go to which of E experts, sorted by expert and cut into tiles of at most ``_ROWS`` rows."""

    order: torch.Tensor
    """(N,) int32: rows, those of expert 0 first; those of no expert here at the end"""
    bounds: torch.Tensor
    """(E + 1,) int32: expert e has order[bounds[e]:bounds[e + 1]]"""
    tiles: torch.Tensor
    """(E,) int32: how many tiles experts 0..e have together"""


def assign(experts: torch.Tensor, count: int) -> Assignments:
    """(N,) experts, of which those outside 0..count-1 are not here."""
    local = experts.masked_fill((experts < 0) | (experts >= count), count)
    order = local.argsort(stable=True).int()
    sizes = (local[:, None] == torch.arange(count, device=experts.device)).sum(dim=0)
    bounds = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).int()
    return Assignments(order, bounds, ((sizes + _ROWS - 1) // _ROWS).cumsum(0).int())


def grouped_product(
    codes: torch.Tensor,
    scales: torch.Tensor,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    assignments: Assignments,
    out: torch.Tensor,
    *,
    rows_per_token: int,
) -> None:
    """Writes row r of ``out`` (N, n), for every r assigned: token r // ``rows_per_token`` times its expert's weight.

    ``codes`` (T, k) e4m3 with ``scales`` (T, k/128); ``weight`` (E, n, k) e4m3 with ``weight_scales``
    (E, n/128, k/128).
    """
    experts, n, k = weight.shape
    tiles = triton.cdiv(out.shape[0], _ROWS) + experts
    _grouped_tile[(triton.cdiv(n, _COLUMNS), min(tiles, out.shape[0]))](
        codes,
        scales,
        weight,
        weight_scales,
        assignments.order,
        assignments.bounds,
        assignments.tiles,
        out,
        n,
        k,
        experts,
        codes.stride(0),
        *scales.stride(),
        *weight.stride()[:2],
        *weight_scales.stride()[:2],
        PER_TOKEN=rows_per_token,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        DEPTH=BLOCK,
        EXPERTS=triton.next_power_of_2(experts),
        num_warps=4,
        num_stages=4,
    )


@triton.jit(do_not_specialize=["experts", "stride_scales_block", "stride_scales_expert", "stride_scales_n"])
def _grouped_tile(
    codes: tl.tensor,
    scales: tl.tensor,
    weight: tl.tensor,
    weight_scales: tl.tensor,
    order: tl.tensor,
    bounds: tl.tensor,
    tiles: tl.tensor,
    out: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    experts: tl.tensor,
    stride_codes: tl.tensor,
    stride_scales_row: tl.tensor,
    stride_scales_block: tl.tensor,
    stride_expert: tl.tensor,
    stride_weight: tl.tensor,
    stride_scales_expert: tl.tensor,
    stride_scales_n: tl.tensor,
    PER_TOKEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EXPERTS: tl.constexpr,
) -> None:
    tile = tl.program_id(1)
    every = tl.arange(0, EXPERTS)
    ends = tl.load(tiles + every, mask=every < experts, other=2147483647)
    # The tile's expert is the first that ends behind it, which is as many as end at it or before.
    expert = tl.sum((ends <= tile).to(tl.int32), axis=0)
    if expert < experts:
        before = tl.load(tiles + expert - 1, mask=expert > 0, other=0)
        place = tl.load(bounds + expert) + (tile - before) * ROWS + tl.arange(0, ROWS)
        real = place < tl.load(bounds + expert + 1)
        row = tl.load(order + place, mask=real, other=0).to(tl.int64)
        columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        column = (columns % n).to(tl.int64)
        depth = tl.arange(0, DEPTH)
        token = row // PER_TOKEN
        from_codes = codes + token[:, None] * stride_codes + depth[None, :]
        from_weight = weight + expert.to(tl.int64) * stride_expert + column[None, :] * stride_weight + depth[:, None]
        from_scales = scales + token * stride_scales_row
        from_weight_scales = weight_scales + expert * stride_scales_expert + column // DEPTH * stride_scales_n
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for block in range(0, k // DEPTH):
            product = tl.dot(tl.load(from_codes), tl.load(from_weight))
            row_scales = tl.load(from_scales + block * stride_scales_block)
            total += product * row_scales[:, None] * tl.load(from_weight_scales + block)[None, :]
            from_codes += DEPTH
            from_weight += DEPTH
        to = out + row[:, None] * n + columns[None, :]
        tl.store(to, total.to(out.dtype.element_ty), mask=real[:, None] & (columns < n)[None, :])

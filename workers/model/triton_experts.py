"""Triton kernels round the products of many experts: which rows go to which, bringing them there, the activation.

All is decided on the device, and grids are as large as they could ever have to be, so that the host need not know which
experts are wanted and a graph can be captured. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from workers.gemm.inputs import BLOCK, FP8
from workers.model.triton_launch import in_turn
from workers.model.triton_rows import gated, quantised_blocks

_BLOCKS_AT_ONCE = 8
_CHOICES_AT_ONCE = {64: 2, 512: 4, 4096: 8}  # of a program, and its warps
_LEAST_BINS = 64
_TILES_AT_ONCE = 32


@dataclass(frozen=True)
class Assignments:
    """The N = T * k choices of T tokens, sorted by expert and cut into tiles of at most ``tile_rows`` of one expert.

    The choices of one expert are in order of tokens.
    """

    order: torch.Tensor
    """(N,) int32: which choice, token * k + place, is the sorted row; -1 behind the last of this rank's"""
    tiles: torch.Tensor
    """(G, 4) int32: expert, first sorted row, rows, 0. Those behind the last tile have no rows"""
    tile_rows: int


def assign(experts: torch.Tensor, own: slice, tile_rows: int) -> Assignments:
    """(T, k) int64 experts, contiguous, of which those in ``own`` are here and are numbered from 0 on."""
    choices, count = experts.numel(), own.stop - own.start
    order = torch.empty(choices, dtype=torch.int32, device=experts.device)
    # Every expert that is wanted may have one tile that is not full.
    wanted = min(count, choices)
    tiles = torch.empty(wanted + (choices - wanted) // tile_rows, 4, dtype=torch.int32, device=experts.device)
    block = next((size for size in _CHOICES_AT_ONCE if size >= choices), max(_CHOICES_AT_ONCE))
    _assign[(count,)](
        experts,
        order,
        tiles,
        choices,
        own.start,
        count,
        tiles.shape[0],
        tile_rows,
        TILES=_TILES_AT_ONCE,
        BINS=max(triton.next_power_of_2(count), _LEAST_BINS),
        BLOCK=block,
        num_warps=_CHOICES_AT_ONCE[block],
        launch_pdl=True,
    )
    return Assignments(order, tiles, tile_rows)


def gathered(
    codes: torch.Tensor, scales: torch.Tensor, order: torch.Tensor, per_token: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (T, k) and scales (T, k/128) of tokens, to those of the sorted rows (N, k) and (N, k/128).

    Scales have stride(0) == 1. Rows that are not this rank's are left as they are.
    """
    rows, k = order.shape[0], codes.shape[1]
    out = torch.empty(rows, k, dtype=FP8, device=codes.device)
    out_scales = torch.empty(k // BLOCK, rows, dtype=torch.float32, device=codes.device).t()
    blocks = 4 * _BLOCKS_AT_ONCE
    _gather[(rows, triton.cdiv(k // BLOCK, blocks))](
        codes.view(torch.uint8),
        scales,
        order,
        out.view(torch.uint8),
        out_scales,
        k,
        codes.stride(0),
        scales.stride(1),
        out_scales.stride(1),
        PER_TOKEN=per_token,
        BLOCKS=blocks,
        SIZE=BLOCK,
        launch_pdl=True,
    )
    return out, out_scales


def silu_multiply_quantise(
    gate_up: torch.Tensor, order: torch.Tensor, activated: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of choices (N, 2 n) the codes (N, n) and scales (N, n/128) of the sorted rows' silu(gate) * up.

    To the bit what ``triton_rows.silu_multiply`` and ``quantise`` give. ``activated`` (N, n) is written, in order of
    choices, where there is one. Rows that are not this rank's are left as they are.
    """
    rows, n = order.shape[0], gate_up.shape[1] // 2
    codes = torch.empty(rows, n, dtype=FP8, device=gate_up.device)
    scales = torch.empty(n // BLOCK, rows, dtype=torch.float32, device=gate_up.device).t()
    _silu_multiply_quantise[(rows, triton.cdiv(n // BLOCK, _BLOCKS_AT_ONCE))](
        gate_up,
        order,
        activated,
        codes,
        scales,
        n,
        scales.stride(1),
        BLOCKS=_BLOCKS_AT_ONCE,
        SIZE=BLOCK,
        launch_pdl=True,
    )
    return codes, scales


@triton.jit(do_not_specialize=["choices", "first", "count", "bound", "tile_rows"])
def _assign(
    experts: tl.tensor,
    order: tl.tensor,
    tiles: tl.tensor,
    choices: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    bound: tl.tensor,
    tile_rows: tl.tensor,
    TILES: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program e writes the rows and tiles of expert e, and its part of what is behind all experts' rows and tiles."""
    in_turn()
    own = tl.program_id(0)
    every = tl.arange(0, BINS)
    within = tl.arange(0, BLOCK)
    sizes = tl.zeros((BINS,), dtype=tl.int32)
    for start in range(0, choices, BLOCK):
        inside = start + within < choices
        local = (tl.load(experts + start + within, mask=inside, other=-1) - first).to(tl.int32)
        sizes += tl.histogram(local, BINS, mask=inside & (local >= 0) & (local < count))
    filled = (sizes + tile_rows - 1) // tile_rows
    size = tl.sum(tl.where(every == own, sizes, 0), axis=0)
    row = tl.sum(tl.where(every < own, sizes, 0), axis=0)
    tile = tl.sum(tl.where(every < own, filled, 0), axis=0)

    column = tl.arange(0, 4)[None, :]
    for start in range(0, (size + tile_rows - 1) // tile_rows, TILES):
        number = start + tl.arange(0, TILES)[:, None]
        rest = size - number * tile_rows
        entry = tl.where(column == 1, row + number * tile_rows, tl.where(column == 2, tl.minimum(rest, tile_rows), 0))
        entry = tl.where(column == 0, own, entry)
        tl.store(tiles + (tile + number) * 4 + column, entry, mask=rest > 0)
    for start in range(tl.sum(filled, axis=0) + own * TILES, bound, count * TILES):
        number = start + tl.arange(0, TILES)[:, None]
        tl.store(tiles + number * 4 + column, tl.zeros((TILES, 4), tl.int32), mask=number < bound)
    for start in range(tl.sum(sizes, axis=0) + own * BLOCK, choices, count * BLOCK):
        tl.store(order + start + within, tl.full((BLOCK,), -1, tl.int32), mask=start + within < choices)

    if size > 0:
        for start in range(0, choices, BLOCK):
            inside = start + within < choices
            mine = inside & (tl.load(experts + start + within, mask=inside, other=-1) - first == own)
            before = tl.cumsum(mine.to(tl.int32), axis=0)
            tl.store(order + row + before - 1, start + within, mask=mine)
            row += tl.sum(mine.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["stride_scales", "stride_out_scales"])
def _gather(
    codes: tl.tensor,
    scales: tl.tensor,
    order: tl.tensor,
    out: tl.tensor,
    out_scales: tl.tensor,
    k: tl.tensor,
    stride_codes: tl.tensor,
    stride_scales: tl.tensor,
    stride_out_scales: tl.tensor,
    PER_TOKEN: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    choice = tl.load(order + row)
    if choice >= 0:
        token = (choice // PER_TOKEN).to(tl.int64)
        column = tl.program_id(1) * (BLOCKS * SIZE) + tl.arange(0, BLOCKS * SIZE)
        values = tl.load(codes + token * stride_codes + column, mask=column < k)
        tl.store(out + row * k + column, values, mask=column < k)
        block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
        factors = tl.load(scales + token + block * stride_scales, mask=block * SIZE < k)
        tl.store(out_scales + row + block * stride_out_scales, factors, mask=block * SIZE < k)


@triton.jit(do_not_specialize=["stride_scales"])
def _silu_multiply_quantise(
    gate_up: tl.tensor,
    order: tl.tensor,
    activated: tl.tensor | None,
    codes: tl.tensor,
    scales: tl.tensor,
    n: tl.tensor,
    stride_scales: tl.tensor,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    choice = tl.load(order + row).to(tl.int64)
    if choice >= 0:
        block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
        columns = block[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
        inside = columns < n
        gate = tl.load(gate_up + choice * 2 * n + columns, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + choice * 2 * n + n + columns, mask=inside, other=0.0).to(tl.float32)
        product = gated(gate, up).to(gate_up.dtype.element_ty)
        if activated is not None:
            tl.store(activated + choice * n + columns, product, mask=inside)
        code, scale = quantised_blocks(product)
        tl.store(codes + row * n + columns, code, mask=inside)
        tl.store(scales + row + block * stride_scales, scale, mask=block * SIZE < n)

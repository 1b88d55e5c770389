"""Triton kernels in which one program makes one row, or a part of it: embedding, quantisation, activation, sums.

How a row is added up depends on its length alone. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.gemm.inputs import BLOCK, FP8
from workers.model.triton_launch import in_turn

_BLOCKS_AT_ONCE = 8
_WIDTH = 1024


def embed(tokens: torch.Tensor, table: torch.Tensor, first: int) -> torch.Tensor:
    """Rows ``tokens`` (T,) int64 less ``first`` of ``table`` (V, n), contiguous: (T, n), zeros where it has none."""
    size = table.shape[1]
    out = torch.empty(len(tokens), size, dtype=table.dtype, device=table.device)
    grid = (len(tokens), triton.cdiv(size, _WIDTH))
    _embed[grid](tokens, table, out, first, *table.shape, WIDTH=_WIDTH, launch_pdl=True)
    return out


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, k), rows contiguous, as ``workers.gemm.inputs.quantise_rows`` to the bit, with scales column-major."""
    rows, k = x.shape
    codes = torch.empty(rows, k, dtype=FP8, device=x.device)
    scales = torch.empty(k // BLOCK, rows, dtype=torch.float32, device=x.device).t()
    grid = (rows, triton.cdiv(k // BLOCK, _BLOCKS_AT_ONCE))
    operands = x, codes, scales, k // BLOCK, x.stride(0), k, scales.stride(1)
    _quantise[grid](*operands, BLOCKS=_BLOCKS_AT_ONCE, SIZE=BLOCK, launch_pdl=True)
    return codes, scales


def silu_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    """(T, 2 n), contiguous, to silu of the first half times the second (T, n)."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
    _silu_multiply[(rows, triton.cdiv(size, _WIDTH))](gate_up, out, size, WIDTH=_WIDTH, launch_pdl=True)
    return out


def silu_multiply_quantise(
    gate_up: torch.Tensor, *, pieces: int, plain: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """(T, 2 n), contiguous, to what ``silu_multiply`` and ``quantise`` give, to the bit: (T, n), its codes and scales.

    Of ``pieces`` side by side each has its gates first; n / pieces is a multiple of 128. The first is None unless
    ``plain``.
    """
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    activated = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device) if plain else None
    codes = torch.empty(rows, size, dtype=FP8, device=gate_up.device)
    scales = torch.empty(size // BLOCK, rows, dtype=torch.float32, device=gate_up.device).t()
    grid = (rows, triton.cdiv(size // BLOCK, _BLOCKS_AT_ONCE))
    _silu_multiply_quantise[grid](
        gate_up,
        activated,
        codes,
        scales,
        size // BLOCK,
        size // BLOCK // pieces,
        scales.stride(1),
        BLOCKS=_BLOCKS_AT_ONCE,
        SIZE=BLOCK,
        launch_pdl=True,
    )
    return activated, codes, scales


def weighted_sum(outputs: torch.Tensor, weights: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """(T, k, n) times (T, k), contiguous, added over k in order, rounded, added to ``onto`` (T, n), contiguous.

    Outputs whose weight is 0 are not read.
    """
    rows, count, size = outputs.shape
    out = torch.empty_like(onto)
    grid = (rows, triton.cdiv(size, _WIDTH))
    _weighted_sum[grid](outputs, weights, onto, out, size, COUNT=count, WIDTH=_WIDTH, launch_pdl=True)
    return out


@triton.jit
def _embed(
    tokens: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    size: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    place = tl.load(tokens + row) - first
    found = (place >= 0) & (place < count) & (columns < size)
    tl.store(out + row * size + columns, tl.load(table + place * size + columns, mask=found, other=0.0), columns < size)


@triton.jit
def gated(gate: tl.tensor, up: tl.tensor) -> tl.tensor:
    """silu(gate) * up of float32."""
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _silu_multiply(gate_up: tl.tensor, out: tl.tensor, size: tl.tensor, WIDTH: tl.constexpr) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < size
    gate = tl.load(gate_up + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + columns, gated(gate, up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def quantised_blocks(values: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """(blocks, 128) bfloat16 or float32 to codes and scales, dividing as IEEE has it, which Triton itself does not."""
    wide = values.to(tl.float32)
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(wide), axis=1), 448.0), 1e-8)
    if values.dtype == tl.bfloat16:
        # One step from the rounded reciprocal rounds a quotient rightly, unless all bits of the divisor's significand
        # are set (Markstein, 1990), which a 448th of a bfloat16 never has. Beside an infinity nothing is in excess.
        inverse = tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)
        divisor = tl.where(inverse > 0.0, scale, 0.0)
        guess = wide * inverse[:, None]
        excess = tl.fma(guess, tl.broadcast_to(divisor[:, None], values.shape), -wide)
        # A zero in excess times a negative number is -0, which leaves every guess as it is.
        ratio = tl.fma(excess, tl.broadcast_to(-inverse[:, None], values.shape), guess)
    else:
        ratio = tl.div_rn(wide, tl.broadcast_to(scale[:, None], values.shape))
    return tl.minimum(tl.maximum(ratio, -448.0), 448.0).to(tl.float8e4nv), scale


@triton.jit(do_not_specialize=["blocks", "piece", "stride_scales"])  # one program for every number of rows
def _silu_multiply_quantise(
    gate_up: tl.tensor,
    activated: tl.tensor | None,
    codes: tl.tensor,
    scales: tl.tensor,
    blocks: tl.tensor,
    piece: tl.tensor,
    stride_scales: tl.tensor,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    """``piece`` blocks of gates stand before as many of the same piece that they are multiplied with."""
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    within = tl.arange(0, SIZE)[None, :]
    inside = (block < blocks)[:, None]
    gates = gate_up + row * 2 * blocks * SIZE + (block + block // piece * piece)[:, None] * SIZE + within
    gate = tl.load(gates, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gates + piece * SIZE, mask=inside, other=0.0).to(tl.float32)
    product = gated(gate, up).to(gate_up.dtype.element_ty)
    to = row * blocks * SIZE + block[:, None] * SIZE + within
    if activated is not None:
        tl.store(activated + to, product, mask=inside)
    code, scale = quantised_blocks(product)
    tl.store(codes + to, code, mask=inside)
    tl.store(scales + row + block * stride_scales, scale, mask=block < blocks)


@triton.jit
def _weighted_sum(
    outputs: tl.tensor,
    weights: tl.tensor,
    onto: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < size
    total = tl.zeros((WIDTH,), dtype=tl.float32)
    for i in tl.static_range(COUNT):
        weight = tl.load(weights + row * COUNT + i)
        wanted = inside & (weight != 0.0)
        total += tl.load(outputs + (row * COUNT + i) * size + columns, mask=wanted, other=0.0).to(tl.float32) * weight
    before = tl.load(onto + row * size + columns, mask=inside, other=0.0).to(tl.float32)
    total = before + total.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * size + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["blocks", "stride_scales"])  # one program for every number of rows
def _quantise(
    x: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    blocks: tl.tensor,
    stride: tl.tensor,
    stride_codes: tl.tensor,
    stride_scales: tl.tensor,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    columns = block[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = (block < blocks)[:, None]
    values = tl.load(x + row * stride + columns, mask=inside, other=0.0)
    code, scale = quantised_blocks(values)
    tl.store(codes + row * stride_codes + columns, code, mask=inside)
    tl.store(scales + row + block * stride_scales, scale, mask=block < blocks)

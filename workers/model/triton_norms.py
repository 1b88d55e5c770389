"""Triton kernels of the RMS norm, one program a row, with the residual before it and the quantisation after it.

How a row is added up depends on its length alone. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.gemm.inputs import BLOCK, FP8
from workers.model.triton_launch import in_turn
from workers.model.triton_rows import quantised_blocks

_WARPS = 8


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """(T, n), rows contiguous, to x / sqrt(mean(x^2) + eps) * weight."""
    rows, size = x.shape
    out = torch.empty(rows, size, dtype=x.dtype, device=x.device)
    width = triton.next_power_of_2(size)
    sizes = size, x.stride(0), eps
    _rms_norm[(rows,)](x, None, None, weight, None, out, *sizes, WIDTH=width, num_warps=_WARPS, launch_pdl=True)
    return out


def add_rms_norm(
    x: torch.Tensor, added: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``rows`` (R,) int64 of x + ``added`` (T, n), contiguous, and the ``rms_norm`` of these, to the bit."""
    count, size = len(rows), x.shape[1]
    total, out = torch.empty(2, count, size, dtype=x.dtype, device=x.device)
    width = triton.next_power_of_2(size)
    sizes = size, size, eps
    _rms_norm[(count,)](x, added, rows, weight, total, out, *sizes, WIDTH=width, num_warps=_WARPS, launch_pdl=True)
    return total, out


def rms_norm_quantise(
    x: torch.Tensor, weight: torch.Tensor, eps: float, *, added: torch.Tensor | None, plain: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """(T, n) with contiguous rows: x + ``added``, its ``rms_norm``, and what ``quantise`` gives of that.

    To the bit as one after the other. n is a multiple of 128; ``added`` (T, n) is contiguous, and without it the first
    is ``x``. The second is None unless ``plain``.
    """
    rows, size = x.shape
    total = x if added is None else torch.empty(rows, size, dtype=x.dtype, device=x.device)
    normed = torch.empty(rows, size, dtype=x.dtype, device=x.device) if plain else None
    codes = torch.empty(rows, size, dtype=FP8, device=x.device)
    scales = torch.empty(size // BLOCK, rows, dtype=torch.float32, device=x.device).t()
    _rms_norm_quantise[(rows,)](
        x,
        added,
        weight,
        total,
        normed,
        codes,
        scales,
        size,
        x.stride(0),
        scales.stride(1),
        eps,
        WIDTH=triton.next_power_of_2(size),
        SIZE=BLOCK,
        num_warps=_WARPS,
        launch_pdl=True,
    )
    return total, normed, codes, scales


@triton.jit
def _sum(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return (x.to(tl.float32) + y.to(tl.float32)).to(x.dtype)


@triton.jit
def normed_row(values: tl.tensor, weight: tl.tensor, size: tl.tensor, eps: tl.tensor) -> tl.tensor:
    """Float32 ``values`` of a row, zeros behind ``size``, times their ``weight``."""
    mean = tl.sum(values * values, axis=0) / size
    return values * (1.0 / tl.sqrt(mean + eps)) * weight.to(tl.float32)


@triton.jit
def _rms_norm(
    x: tl.tensor,
    added: tl.tensor | None,
    index: tl.tensor | None,
    weight: tl.tensor,
    total: tl.tensor | None,
    out: tl.tensor,
    size: tl.tensor,
    stride: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < size
    factors = tl.load(weight + columns, mask=inside, other=0.0)
    in_turn()
    source = row if index is None else tl.load(index + row)
    values = tl.load(x + source * stride + columns, mask=inside, other=0.0)
    if added is not None:
        values = _sum(values, tl.load(added + source * size + columns, mask=inside, other=0.0))
        tl.store(total + row * size + columns, values, mask=inside)
    scaled = normed_row(values.to(tl.float32), factors, size, eps)
    tl.store(out + row * size + columns, scaled.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stride_scales"])  # one program for every number of rows
def _rms_norm_quantise(
    x: tl.tensor,
    added: tl.tensor | None,
    weight: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor | None,
    codes: tl.tensor,
    scales: tl.tensor,
    size: tl.tensor,
    stride: tl.tensor,
    stride_scales: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < size
    to = row * size + columns
    factors = tl.load(weight + columns, mask=inside, other=0.0)
    in_turn()
    values = tl.load(x + row * stride + columns, mask=inside, other=0.0)
    if added is not None:
        values = _sum(values, tl.load(added + to, mask=inside, other=0.0))
        tl.store(total + to, values, mask=inside)
    scaled = normed_row(values.to(tl.float32), factors, size, eps).to(x.dtype.element_ty)
    if normed is not None:
        tl.store(normed + to, scaled, mask=inside)
    blocks: tl.constexpr = WIDTH // SIZE
    code, scale = quantised_blocks(tl.reshape(scaled, (blocks, SIZE)))
    block = tl.arange(0, blocks)
    # With places of their own shape: with those of x, Triton would share out x, and so its sum, as suits the codes.
    to_codes = codes + row * size + block[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(to_codes, code, mask=(block < size // SIZE)[:, None])
    tl.store(scales + row + block * stride_scales, scale, mask=block < size // SIZE)

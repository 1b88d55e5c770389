"""A Triton kernel for plain products, whose segments of K depend on the weight's shape alone.

The weight is the tall operand of the tensor cores and rows the wide one, so that a tile may have few of them. A tile's
shape changes no bits of bfloat16: in each of them a sum takes the same steps of 16 along K.

Imports triton: import this module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from workers.model.triton_launch import in_turn

_COLUMNS = 64  # of the smallest tile
_PROGRAMS = 128  # about as many as a GPU runs at once
_LEAST_STEP = 128  # along K: every tile's depth divides it
_LEAST_SEGMENT = 512
_MOST_SEGMENTS = 8


def matmul(x: torch.Tensor, weight: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    """(T, k) times the transpose of (n, k), summed in float32."""
    return _products(x[None], weight.t()[None], out_dtype)[0]


def head_matmul(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """(T, H, a) times (H, a, b), to (T, H, b): to ``out``, which may have gaps between heads and between tokens."""
    to = None if out is None else out.transpose(0, 1)
    return _products(x.transpose(0, 1), weight, x.dtype, to).transpose(0, 1)


def segments(n: int, k: int) -> int:
    """Into how many parts K is cut, which are added in order: as many as keep a GPU busy with one tile of rows."""
    wanted = _PROGRAMS // triton.cdiv(n, _COLUMNS)
    return int(max(1, min(wanted, k // _LEAST_SEGMENT, _MOST_SEGMENTS)))


@dataclass(frozen=True)
class _Tile:
    rows: int
    columns: int
    depth: int
    stages: int


_FEW_ROWS = (_Tile(16, _COLUMNS, 128, 3), _Tile(32, _COLUMNS, 128, 3))
_MANY_ROWS = _Tile(64, 2 * _COLUMNS, 64, 4)
_SMALL = _Tile(64, _COLUMNS, 64, 4)


def _tile(rows: int, columns: int, dtype: torch.dtype) -> _Tile:
    """Of a product to ``rows`` times ``columns``, counting those of all heads and segments."""
    if dtype == torch.float32:  # without tensor cores: nothing is known of other tiles
        return _SMALL
    for tile in _FEW_ROWS:
        if rows <= tile.rows:
            return tile
    return _MANY_ROWS if columns >= _PROGRAMS * _MANY_ROWS.columns else _SMALL


def _products(
    x: torch.Tensor, weight: torch.Tensor, out_dtype: torch.dtype, out: torch.Tensor | None = None
) -> torch.Tensor:
    """(H, T, k) times (H, k, n), of any strides, to (H, T, n), of any strides but the last."""
    (heads, rows, k), n = x.shape, weight.shape[2]
    count = segments(n, k)
    to = out
    if to is None:  # heads beside each other, as attention's next step takes them
        to = torch.empty(rows, heads, n, dtype=out_dtype, device=x.device).transpose(0, 1)
    parts = to[None] if count == 1 else torch.empty(count, heads, rows, n, dtype=torch.float32, device=x.device)
    depth = triton.cdiv(triton.cdiv(k, count), _LEAST_STEP) * _LEAST_STEP
    tile = _tile(rows, heads * n * count, x.dtype)
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(n, tile.columns), heads, count)
    strides = (*x.stride(), *weight.stride(), *parts.stride()[:3])
    shape = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    stages = min(tile.stages, depth // tile.depth + 1)  # memory of others would keep programs away
    _tile_product[grid](x, weight, parts, rows, n, k, depth, *strides, **shape, num_stages=stages, launch_pdl=True)
    if count > 1:
        total, size = torch.empty(heads, rows, n, dtype=out_dtype, device=x.device), heads * rows * n
        _ordered_sum[(triton.cdiv(size, 1024),)](parts, total, size, COUNT=count, SIZE=1024, launch_pdl=True)
        return total if out is None else out.copy_(total)
    return to


@triton.jit(do_not_specialize=["m"])  # compiled once for a tile, whatever the number of rows
def _tile_product(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    depth: tl.tensor,
    stride_x_head: tl.tensor,
    stride_x_row: tl.tensor,
    stride_x_k: tl.tensor,
    stride_w_head: tl.tensor,
    stride_w_k: tl.tensor,
    stride_w_n: tl.tensor,
    stride_out_segment: tl.tensor,
    stride_out_head: tl.tensor,
    stride_out_row: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    in_turn()
    # Tiles go down the rows first, so that those that run together share the weight's columns in the L2.
    down = tl.cdiv(m, ROWS)
    rows = tl.program_id(0) % down * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) // down * COLUMNS + tl.arange(0, COLUMNS)
    head, segment = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    along = tl.arange(0, DEPTH)
    from_x = x + head * stride_x_head + (rows % m).to(tl.int64)[None, :] * stride_x_row
    from_w = weight + head * stride_w_head + (columns % n).to(tl.int64)[:, None] * stride_w_n
    total = tl.zeros((COLUMNS, ROWS), dtype=tl.float32)
    stop = tl.minimum(k, (segment + 1) * depth)
    for start in range(segment * depth, stop, DEPTH):
        inside = start + along < stop
        tall = tl.load(from_w + (start + along)[None, :] * stride_w_k, mask=inside[None, :], other=0.0)
        wide = tl.load(from_x + (start + along)[:, None] * stride_x_k, mask=inside[:, None], other=0.0)
        total = tl.dot(tall, wide, total, input_precision="ieee")
    to = out + segment * stride_out_segment + head * stride_out_head
    to += rows.to(tl.int64)[None, :] * stride_out_row + columns[:, None]
    tl.store(to, total.to(out.dtype.element_ty), mask=(rows < m)[None, :] & (columns < n)[:, None])


@triton.jit
def _ordered_sum(parts: tl.tensor, out: tl.tensor, size: tl.tensor, COUNT: tl.constexpr, SIZE: tl.constexpr) -> None:
    in_turn()
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), dtype=tl.float32)
    for part in range(COUNT):
        total += tl.load(parts + part * size + place, mask=place < size, other=0.0)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=place < size)

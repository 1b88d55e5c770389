"""A Triton kernel for the block-scaled product, as model servers ship one: tiles chosen by m, K walked in order.

One program makes one tile of the output. Which tile sizes, and with them which tensor-core instructions, depends on m,
so that a row's bits may depend on the batch it is in. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from workers.gemm.inputs import BLOCK
from workers.gemm.target import GemmInputs


@dataclass(frozen=True)
class Tile:
    rows: int
    columns: int
    warps: int
    stages: int


def tile_for(m: int) -> Tile:
    """Few rows want narrow tiles, so that there are enough of them for all SMs."""
    if m <= 16:
        return Tile(16, 64, warps=4, stages=5)
    if m <= 64:
        return Tile(64, 64, warps=4, stages=5)
    return Tile(128, 128, warps=8, stages=4) if m > 1024 else Tile(64, 128, warps=4, stages=4)


def multiply_into(inputs: GemmInputs, out: torch.Tensor) -> None:
    """Write the product to ``out`` (m, n), row-major, bfloat16, float16 or float32, on torch's current stream."""
    tile = tile_for(inputs.m)
    programs = triton.cdiv(inputs.m, tile.rows) * triton.cdiv(inputs.n, tile.columns)
    with torch.cuda.device(out.device):
        _tile_product[(programs,)](
            inputs.mat_a,
            inputs.mat_b,
            out,
            inputs.scales_a,
            inputs.scales_b,
            inputs.m,
            inputs.n,
            inputs.k,
            inputs.mat_a.stride(0),
            inputs.mat_b.stride(1),
            out.stride(0),
            inputs.scales_a.stride(1),
            inputs.scales_b.stride(1),
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=BLOCK,
            GROUP=16,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


@triton.jit
def _tile_product(
    a: tl.tensor,
    b: tl.tensor,
    out: tl.tensor,
    scales_a: tl.tensor,
    scales_b: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    stride_a: tl.tensor,
    stride_b: tl.tensor,
    stride_out: tl.tensor,
    stride_scales_a: tl.tensor,
    stride_scales_b: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    # Programs go down GROUP tiles of rows before the next column, so that those that run together share B in the L2.
    tiles_down = tl.cdiv(m, ROWS)
    across = GROUP * tl.cdiv(n, COLUMNS)
    first = tl.program_id(0) // across * GROUP
    height = tl.minimum(tiles_down - first, GROUP)
    row_tile = first + tl.program_id(0) % across % height
    column_tile = tl.program_id(0) % across // height

    rows = row_tile * ROWS + tl.arange(0, ROWS)
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # Beyond the edge the first rows are read again: loads without masks are faster, and the store has one.
    row_of_a, column_of_b = rows % m, columns % n
    from_a = a + row_of_a.to(tl.int64)[:, None] * stride_a + depth[None, :]
    from_b = b + column_of_b.to(tl.int64)[None, :] * stride_b + depth[:, None]
    from_scales_a = scales_a + row_of_a
    from_scales_b = scales_b + (column_of_b // DEPTH) * stride_scales_b

    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for block in range(0, tl.cdiv(k, DEPTH)):
        product = tl.dot(tl.load(from_a), tl.load(from_b))
        row_scales = tl.load(from_scales_a + block * stride_scales_a)
        total += product * row_scales[:, None] * tl.load(from_scales_b + block)[None, :]
        from_a += DEPTH
        from_b += DEPTH
    to = out + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(rows[:, None] < m) & (columns[None, :] < n))

"""The farm's GEMM over groups of rows that have a weight each, as the experts of a mixture: one launch on a GPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from workers.gemm.inputs import BLOCK
from workers.gemm.native import OUT_DTYPES, VARIANTS, FarmGemm, check_inputs, current_stream, leading, load
from workers.gemm.target import GemmInputs

IMPLEMENTATION = "farm:grouped-invariant"
"""As recorders are told."""
TILE_ROWS = (8, 16, 32, 64, 128)
"""How many rows a tile may have. Results don't depend on it."""
_WEIGHT_ROWS = 64


class FarmGroups(ctypes.Structure):
    """``farm_groups`` of farm_grouped.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("experts", "tile_count", "tile_tokens")),
        *((name, ctypes.c_void_p) for name in ("tiles", "out_rows")),
    )


@dataclass(frozen=True)
class GroupedInputs:
    """R rows, those of an expert next to each other, and E experts' weights; all on one GPU."""

    mat_a: torch.Tensor
    """(R, k) e4m3, row-major"""
    mat_b: torch.Tensor
    """(E, n, k) e4m3, contiguous; n a multiple of 64"""
    scales_a: torch.Tensor
    """(R, k/128) float32 with stride(0) == 1"""
    scales_b: torch.Tensor
    """(E, ceil(n/128), k/128) float32, contiguous"""
    tiles: torch.Tensor
    """(G, 4) int32, contiguous: expert, first row, rows (0: nothing to do), 0. Not looked at on the host."""
    out_rows: torch.Tensor | None
    """(R,) int32: row i of the result goes to row out_rows[i] of the output; None: to row i"""


def multiply_groups(inputs: GroupedInputs, out: torch.Tensor, tile_rows: int) -> None:
    """Writes the rows of ``out`` (N, n) that ``inputs.tiles`` lead to, with the bits of ``invariant`` for each expert.

    No tile has more than ``tile_rows`` rows. Raises ValueError for operands that don't fit, KernelError and BuildError
    where the library fails.
    """
    check_groups(inputs, out, tile_rows)
    rows, k = inputs.mat_a.shape
    experts, n, _ = inputs.mat_b.shape
    args = FarmGemm(struct_size=ctypes.sizeof(FarmGemm), variant=VARIANTS["invariant"], out_dtype=OUT_DTYPES[out.dtype])
    args.m, args.n, args.k = rows, n, k
    args.a, args.b, args.d = inputs.mat_a.data_ptr(), inputs.mat_b.data_ptr(), out.data_ptr()
    args.scale_a, args.scale_b = inputs.scales_a.data_ptr(), inputs.scales_b.data_ptr()
    args.lda, args.ldb, args.ldd = leading(inputs.mat_a, 1), k, out.stride(0)
    args.ld_scale_a, args.ld_scale_b = max(inputs.scales_a.stride(1), rows), k // BLOCK
    groups = FarmGroups(experts=experts, tile_count=inputs.tiles.shape[0], tile_tokens=tile_rows)
    groups.tiles = inputs.tiles.data_ptr()
    groups.out_rows = None if inputs.out_rows is None else inputs.out_rows.data_ptr()
    with torch.cuda.device(out.device):
        args.stream = current_stream()
        load("cuda").call("farm_gemm_run_grouped", ctypes.byref(args), ctypes.byref(groups))


def check_groups(inputs: GroupedInputs, out: torch.Tensor, tile_rows: int) -> None:
    """Raises ValueError with the value given, what is allowed and what to do, for the first thing that does not fit."""
    if tile_rows not in TILE_ROWS:
        raise ValueError(f"tile_rows is {tile_rows}; allowed are {', '.join(map(str, TILE_ROWS))}")
    if inputs.mat_b.dim() != 3 or not inputs.mat_b.is_contiguous() or inputs.mat_b.shape[1] % _WEIGHT_ROWS:
        raise ValueError(
            f"mat_b has shape {tuple(inputs.mat_b.shape)} and strides {inputs.mat_b.stride()}; it must be contiguous "
            f"(experts, n, k) with n a multiple of {_WEIGHT_ROWS}"
        )
    experts, n, k = inputs.mat_b.shape
    blocks = -(-n // BLOCK), -(-k // BLOCK)
    if tuple(inputs.scales_b.shape) != (experts, *blocks) or not inputs.scales_b.is_contiguous():
        raise ValueError(
            f"scales_b has shape {tuple(inputs.scales_b.shape)} and strides {inputs.scales_b.stride()}; for mat_b "
            f"{tuple(inputs.mat_b.shape)} it must be contiguous {(experts, *blocks)}"
        )
    check_inputs(GemmInputs(inputs.mat_a, inputs.mat_b[0].t(), inputs.scales_a, inputs.scales_b[0].t()), out.dtype)
    rows = inputs.mat_a.shape[0]
    _check_table("tiles", inputs.tiles, (inputs.tiles.shape[0], 4))
    if inputs.out_rows is not None:
        _check_table("out_rows", inputs.out_rows, (rows,))
    if out.dim() != 2 or out.shape[1] != n or out.stride(1) != 1:
        raise ValueError(f"out has shape {tuple(out.shape)} and strides {out.stride()}; it must be row-major (N, {n})")
    if inputs.out_rows is None and out.shape[0] < rows:
        raise ValueError(f"out has {out.shape[0]} rows; without out_rows it must have one for each of mat_a's {rows}")
    if any(t is not None and t.device != inputs.mat_a.device for t in (inputs.tiles, inputs.out_rows, out)):
        raise ValueError(f"tiles, out_rows and out must be on {inputs.mat_a.device}, where mat_a is")


def _check_table(name: str, table: torch.Tensor, shape: tuple[int, ...]) -> None:
    if table.dtype != torch.int32 or tuple(table.shape) != shape or not table.is_contiguous():
        raise ValueError(
            f"{name} is {table.dtype} of shape {tuple(table.shape)} with strides {table.stride()}; it must be "
            f"contiguous int32 of shape {shape}"
        )

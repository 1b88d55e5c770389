"""The GEMM over groups on a GPU: each expert's rows have the bits that ``invariant`` gives them alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

import workers.gemm.op  # noqa: F401  (registers the operator)
from workers.gemm.grouped import TILE_ROWS, GroupedInputs, multiply_groups
from workers.gemm.inputs import FP8, make_inputs
from workers.gemm.native import multiply
from workers.gemm.target import GemmInputs

UNTOUCHED = -7.0
COUNTS = (3, 0, 1, 40, 129)
"""Rows of each expert: none, fewer than any tile, more than any tile."""


def problem(n: int, k: int) -> tuple[list[GemmInputs], GroupedInputs, torch.Tensor]:
    """Each expert's own operands, all of them together without tiles, and where results go: in reverse."""
    alone = [make_inputs(max(count, 1), n, k, seed=expert, device="cuda") for expert, count in enumerate(COUNTS)]
    some = [(inputs, count) for inputs, count in zip(alone, COUNTS, strict=True) if count]
    rows = torch.arange(sum(COUNTS) - 1, -1, -1, dtype=torch.int32, device="cuda")
    together = GroupedInputs(
        mat_a=torch.cat([inputs.mat_a.view(torch.uint8) for inputs, _ in some]).view(FP8),
        mat_b=torch.stack([inputs.mat_b.t().view(torch.uint8) for inputs in alone]).view(FP8),
        scales_a=torch.cat([inputs.scales_a for inputs, _ in some]).t().contiguous().t(),
        scales_b=torch.stack([inputs.scales_b.t() for inputs in alone]).contiguous(),
        tiles=torch.zeros(0, 4, dtype=torch.int32, device="cuda"),
        out_rows=rows,
    )
    return alone, together, rows


def tiles_of(tile_rows: int) -> torch.Tensor:
    """In no order of experts, with tiles that have nothing to do."""
    starts = list(itertools.accumulate(COUNTS, initial=0))
    table = [
        (expert, starts[expert] + at, min(tile_rows, count - at), 0)
        for expert, count in enumerate(COUNTS)
        for at in range(0, count, tile_rows)
    ]
    return torch.tensor([*table[::-1], (4, 0, 0, 0), (0, 0, 0, 0)], dtype=torch.int32, device="cuda")


@pytest.mark.parametrize("n, k", [(256, 1024), (576, 2048), (1088, 384), (4096, 7168)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_experts_have_the_bits_of_invariant(n: int, k: int, dtype: torch.dtype) -> None:
    alone, together, rows = problem(n, k)
    wanted = torch.cat([multiply(each, dtype, "invariant")[:count] for each, count in zip(alone, COUNTS, strict=True)])
    for tile_rows in TILE_ROWS:
        operands = together.mat_a, together.mat_b, together.scales_a, together.scales_b, tiles_of(tile_rows)
        out = torch.full((sum(COUNTS) + 2, n), UNTOUCHED, dtype=dtype, device="cuda")
        torch.ops.farm.fp8_grouped_scaled_mm(*operands, rows, out, tile_rows)
        assert torch.equal(out[rows.long()], wanted)
        assert torch.equal(out[-2:], torch.full_like(out[-2:], UNTOUCHED))
        multiply_groups(GroupedInputs(*operands, None), out, tile_rows)
        assert torch.equal(out[:-2], wanted)


def test_only_rows_of_tiles_are_written() -> None:
    _, together, _ = problem(256, 1024)
    tiles = torch.tensor([[3, 10, 5, 0]], dtype=torch.int32, device="cuda")
    out = torch.full((sum(COUNTS), 256), UNTOUCHED, device="cuda")
    operands = together.mat_a, together.mat_b, together.scales_a, together.scales_b
    multiply_groups(GroupedInputs(*operands, tiles, None), out, 8)
    written = (out != UNTOUCHED).all(dim=1).nonzero().flatten().tolist()
    assert written == list(range(10, 15)) and int((out != UNTOUCHED).sum()) == 5 * 256


@pytest.mark.parametrize(
    "field, made, told",
    [
        ("tile_rows", lambda: 24, "allowed are 8, 16, 32, 64, 128"),
        ("tiles", lambda: torch.zeros(2, 3, dtype=torch.int32, device="cuda"), "tiles is torch.int32 of shape (2, 3)"),
        ("out_rows", lambda: torch.zeros(4, dtype=torch.int64, device="cuda"), "out_rows is torch.int64"),
        ("mat_b", lambda: torch.zeros(5, 1024, 200, device="cuda").to(FP8).transpose(1, 2), "n a multiple of 64"),
        ("scales_b", lambda: torch.ones(5, 8, 2, device="cuda"), "must be contiguous (5, 2, 8)"),
    ],
)
def test_what_does_not_fit_is_told(field: str, made: Callable[[], object], told: str) -> None:
    _, together, _ = problem(256, 1024)
    given = vars(together) | {"tiles": tiles_of(8), "tile_rows": 8} | {field: made()}
    tile_rows = given.pop("tile_rows")
    out = torch.empty(sum(COUNTS), 256, device="cuda")
    with pytest.raises(ValueError) as error:
        multiply_groups(GroupedInputs(**given), out, tile_rows)
    assert told in str(error.value)


def test_results_need_room() -> None:
    _, together, _ = problem(256, 1024)
    inputs = GroupedInputs(**vars(together) | {"tiles": tiles_of(8), "out_rows": None})
    with pytest.raises(ValueError, match="out has 4 rows; without out_rows it must have one for each of mat_a's "):
        multiply_groups(inputs, torch.empty(4, 256, device="cuda"), 8)

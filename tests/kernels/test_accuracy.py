from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.cases import bits, inputs_of, run
from workers.gemm.inputs import FP8
from workers.gemm.native import VARIANTS, NativeGemm
from workers.gemm.reference import reference_fp64, relative_error
from workers.gemm.target import QUIET, Conditions, GemmInputs

FLOAT32_LIMIT = 1e-6
SHAPES = [
    (1, 8, 128),
    (3, 136, 640),
    (17, 576, 2048),
    (17, 136, 4096),
    (129, 8, 4096),
    (129, 136, 512),
    (1, 2112, 6528),
    (270, 576, 1920),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_agrees_with_float64(variant: str, shape: tuple[int, int, int]) -> None:
    inputs = inputs_of(*shape)
    reference = reference_fp64(inputs)
    for threads in (1, 3):
        assert (
            relative_error(run(variant, inputs, torch.float32, Conditions(threads=threads)), reference) < FLOAT32_LIMIT
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_shorter_results_are_the_float32_ones_rounded_once(variant: str, dtype: torch.dtype) -> None:
    inputs, quiet = inputs_of(45, 136, 4096), Conditions(threads=1)
    exact = run(variant, inputs, torch.float32, quiet)
    assert torch.equal(run(variant, inputs, dtype, quiet), exact.to(dtype))


@pytest.mark.parametrize("sm_count", [1, 7, 40, 132, 1000])
@pytest.mark.parametrize("variant", ["streamk", "streamk-ordered"])
def test_any_number_of_workers_covers_k_once(variant: str, sm_count: int) -> None:
    inputs = inputs_of(300, 264, 1024)  # 9 tiles, 8 blocks of K: whole waves, a rest, more workers than blocks
    out = run(variant, inputs, torch.float32, Conditions(sm_count=sm_count))
    assert relative_error(out, reference_fp64(inputs)) < FLOAT32_LIMIT


@pytest.mark.parametrize("variant", ["streamk-ordered", "persistent", "invariant"])
def test_leading_dimensions_and_addresses_may_be_odd(variant: str) -> None:
    inputs = inputs_of(19, 136, 4096)
    expected = run(variant, inputs, torch.bfloat16)
    nan_code = torch.full((), 0x7F, dtype=torch.uint8).view(FP8)
    loose = GemmInputs(
        _loose(inputs.mat_a, nan_code, 67, 3),
        _loose(inputs.mat_b.t(), nan_code, 131, 1).t(),
        _loose(inputs.scales_a.t(), float("nan"), 5, 1).t(),
        _loose(inputs.scales_b.t(), float("nan"), 3, 2).t(),
    )
    frame = torch.full((19, 136 + 13), 7.0, dtype=torch.bfloat16)
    out = frame[:, 5 : 5 + 136]
    NativeGemm(variant).bind(loose, out)(QUIET)
    assert bits(out) == bits(expected)
    assert (frame[:, :5] == 7).all() and (frame[:, 5 + 136 :] == 7).all()


@pytest.mark.parametrize("code", [0x7F, 0xFF])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_nan_reaches_its_row_or_column_and_nothing_else(variant: str, code: int) -> None:
    inputs = inputs_of(20, 136, 4096)
    clean = run(variant, inputs, torch.bfloat16, Conditions(threads=1))
    inputs.mat_a.view(torch.uint8)[13, 2000] = code
    inputs.mat_b.t().view(torch.uint8)[131, 4095] = code
    out = run(variant, inputs, torch.bfloat16, Conditions(threads=1))
    expected = torch.zeros(20, 136, dtype=torch.bool)
    expected[13, :] = True
    expected[:, 131] = True
    assert torch.equal(out.isnan(), expected)
    assert torch.equal(out[~expected], clean[~expected])


def _loose(tensor: torch.Tensor, filler: Any, extra: int, offset: int) -> torch.Tensor:
    """The same values as a view with ``extra`` of ``filler`` behind every row, starting at an odd address."""
    rows, columns = tensor.shape
    integers = tensor.dtype == FP8
    buffer = torch.empty(rows * (columns + extra) + offset, dtype=tensor.dtype)
    (buffer.view(torch.uint8) if integers else buffer).fill_(filler.view(torch.uint8) if integers else filler)
    view = buffer[offset:].view(rows, columns + extra)[:, :columns]
    view.copy_(tensor)
    return view

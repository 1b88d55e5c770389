from __future__ import annotations

import math

import pytest
import torch

from workers.gemm.inputs import FP8, make_inputs
from workers.gemm.reference import (
    dequantise_b,
    reference_fp64,
    relative_error,
    reorder_sensitivity,
    rounding_floor,
)
from workers.gemm.target import GemmInputs


def uniform(k: int, codes: list[float], scales: list[float]) -> GemmInputs:
    """One row times 8 columns of ones; block b of A holds ``codes[b]`` throughout, with scale ``scales[b]``."""
    a = torch.tensor(codes).repeat_interleave(128)[None, :].to(FP8)
    b = torch.ones(8, k).to(FP8).t()
    return GemmInputs(a, b, torch.tensor(scales)[:, None].t(), torch.ones(k // 128, 1))


def test_the_reference_is_the_sum_of_scaled_products() -> None:
    inputs = make_inputs(3, 136, 256, seed=0, device="cpu")
    reference = reference_fp64(inputs)
    for i, j in ((0, 0), (2, 127), (1, 128), (2, 135)):
        terms = [
            float(inputs.mat_a[i, x].float())
            * float(inputs.scales_a[i, x // 128])
            * float(inputs.mat_b[x, j].float())
            * float(inputs.scales_b[x // 128, j // 128])
            for x in range(256)
        ]
        assert float(reference[i, j]) == pytest.approx(math.fsum(terms), rel=1e-12)


def test_columns_may_be_dequantised_in_parts() -> None:
    inputs = make_inputs(1, 392, 256, seed=0, device="cpu")
    whole = dequantise_b(inputs, torch.float64)
    parts = [dequantise_b(inputs, torch.float64, start, start + 128) for start in range(0, 392, 128)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_relative_error_is_that_of_norms() -> None:
    ref = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert relative_error(torch.tensor([[3.0, 4.5]]), ref) == pytest.approx(0.1)
    assert relative_error(ref, ref) == 0
    assert math.isnan(relative_error(torch.tensor([[math.nan, 4.0]]), ref))


@pytest.mark.parametrize(("dtype", "measured"), [(torch.bfloat16, 1.66e-3), (torch.float16, 2.08e-4)], ids=str)
def test_the_floor_of_short_formats_is_their_rounding(dtype: torch.dtype, measured: float) -> None:
    reference = reference_fp64(make_inputs(64, 256, 512, seed=0, device="cpu"))
    assert rounding_floor(reference, dtype, 512) == pytest.approx(measured, rel=0.02)


def test_the_floor_of_float32_is_that_of_its_additions() -> None:
    reference = torch.ones(4, 4, dtype=torch.float64)
    assert rounding_floor(reference, torch.float32, 4096) == 64 * 2.0**-24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_sums_of_one_or_two_blocks_have_one_order(dtype: torch.dtype) -> None:
    for k in (128, 256):
        sensitivity = reorder_sensitivity(make_inputs(32, 64, k, seed=0, device="cpu"), dtype)
        assert (sensitivity.checked, sensitivity.changed) == (32 * 64, 0)


def test_random_operands_are_sensitive_and_the_shorter_the_format_the_less() -> None:
    inputs = make_inputs(300, 1000, 4096, seed=0, device="cpu")
    found = [reorder_sensitivity(inputs, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)]
    assert 0 < found[0].changed < found[1].changed < found[2].changed
    assert found[2].changed > found[2].checked / 2
    assert {each.checked for each in found} == {64 * 512}


def test_exact_sums_are_insensitive() -> None:
    inputs = uniform(1024, [1.0, 2.0, -1.0, 4.0, 0.5, -2.0, 8.0, 1.0], [1.0] * 8)
    assert reorder_sensitivity(inputs, torch.float32).changed == 0


def test_one_order_that_cancels_is_found() -> None:
    """(2^24 + 1) - 2^24 is 0 in float32, (1 - 2^24) + 2^24 is 1."""
    inputs = uniform(384, [1.0, 1.0, -1.0], [2.0**17, 2.0**-7, 2.0**17])
    sensitivity = reorder_sensitivity(inputs, torch.bfloat16)
    assert (sensitivity.checked, sensitivity.changed) == (8, 8)


def test_no_element_is_checked_twice() -> None:
    inputs = make_inputs(7, 24, 512, seed=0, device="cpu")
    few = reorder_sensitivity(inputs, torch.float32, max_rows=3, max_columns=5)
    assert few.checked == 15
    assert reorder_sensitivity(inputs, torch.float32).checked == 7 * 24

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import ALL_CODES, as_scales, codes_of_a, codes_of_b, floats_to_round, run
from workers.gemm.inputs import FP8

DECODED = ALL_CODES.view(FP8).float()
CANONICAL_NAN = {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00, torch.float32: 0x7FC00000}


def test_every_code_of_a_decodes_as_in_torch() -> None:
    out = run("persistent", codes_of_a(), torch.float32)
    for column in out.unbind(1):
        torch.testing.assert_close(column, DECODED, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("count", [256, 24, 8])  # whole panels, one vector and a rest, the rest alone
def test_every_code_of_b_decodes_as_in_torch(count: int) -> None:
    for first in range(0, 256, count):
        some = min(count, 256 - first)
        out = run("persistent", codes_of_b(first, some), torch.float32)
        torch.testing.assert_close(out[0], DECODED[first : first + some], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", CANONICAL_NAN, ids=str)
def test_results_are_rounded_to_nearest_even(dtype: torch.dtype) -> None:
    values = floats_to_round()
    out = run("persistent", as_scales(values), dtype)
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    expected = (values + 0.0).to(dtype)  # sums start from +0, so that -0 comes out as +0
    nan = values.isnan()
    for column in out.unbind(1):
        assert torch.equal(column[~nan].view(integers), expected[~nan].view(integers))
        assert set(column[nan].contiguous().view(integers).tolist()) == {CANONICAL_NAN[dtype]}


def test_the_rounding_cases_hold_subnormals_infinities_and_overflows() -> None:
    values = floats_to_round()
    halves = values.to(torch.float16)
    assert ((values != 0) & (values.abs() < torch.finfo(torch.float32).tiny)).any()
    assert ((halves != 0) & (halves.abs() < torch.finfo(torch.float16).tiny)).any()
    assert (halves.isinf() & ~values.isinf()).any()
    assert values.isinf().any() and values.isnan().any()

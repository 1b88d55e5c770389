from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from orchestrator.witness import compare_answers, compare_samples
from specs.job import Dtype
from workers.digest import raw_bytes
from workers.engine.samples import encode


def sample(values: list[float], dtype: torch.dtype) -> bytes:
    return bytes(raw_bytes(torch.tensor(values, dtype=dtype)))


@pytest.mark.parametrize(
    ("dtype", "torch_dtype", "bits"),
    [
        (Dtype.BF16, torch.bfloat16, ("0x3f80", "0x3f82")),
        (Dtype.FP16, torch.float16, ("0x3c00", "0x3c10")),
        (Dtype.FP32, torch.float32, ("0x3f800000", "0x3f820000")),
    ],
)
def test_the_first_difference_is_told_with_place_values_and_bits(
    dtype: Dtype, torch_dtype: torch.dtype, bits: tuple[str, str]
) -> None:
    before, after = [0.0, 1.0, 2.0, 1.0, 5.0, 6.0], [0.0, 1.0, 2.0, 1.015625, 5.0, 7.0]
    found = compare_samples(sample(before, torch_dtype), sample(after, torch_dtype), dtype, row_length=3)
    assert (found.elements, found.differing, found.index, found.coordinates) == (6, 2, 3, (1, 0))
    assert found.bits == bits
    assert [torch.tensor(float(value), dtype=torch_dtype).item() for value in found.values] == [1.0, 1.015625]


def test_ulps_are_counted_across_zero() -> None:
    least = struct.pack("<f", 1e-45)
    minus = struct.pack("<f", -1e-45)
    assert compare_samples(least, minus, Dtype.FP32, row_length=1).max_ulp == 2


def test_zeros_of_different_sign_differ_by_no_ulp() -> None:
    found = compare_samples(struct.pack("<f", 0.0), struct.pack("<f", -0.0), Dtype.FP32, row_length=1)
    assert (found.differing, found.max_ulp, found.values) == (1, 0, ("0.0", "-0.0"))


def test_a_nan_has_no_distance() -> None:
    found = compare_samples(struct.pack("<f", 1.0), struct.pack("<f", float("nan")), Dtype.FP32, row_length=1)
    assert (found.max_ulp, found.values[1]) == (None, "nan")


def test_equal_bits_are_no_witness() -> None:
    nan = struct.pack("<f", float("nan"))
    with pytest.raises(ValueError, match="equal"):
        compare_samples(nan, nan, Dtype.FP32, row_length=1)
    with pytest.raises(ValueError, match="1 and 2 elements"):
        compare_samples(nan, nan + nan, Dtype.FP32, row_length=1)


def answer(*pairs: tuple[int, float]) -> bytes:
    return encode([token for token, _ in pairs], np.array([logprob for _, logprob in pairs], dtype=np.float32))


def test_equal_answers_are_no_witness() -> None:
    with pytest.raises(ValueError, match="the samples are equal"):
        compare_answers(answer((1, -1.0)), answer((1, -1.0)))


def test_logprobs_part_before_the_tokens_do() -> None:
    step = float(np.nextafter(np.float32(-1), np.float32(-2)))
    first, second = answer((5, -2.0), (6, -1.0), (7, -3.0)), answer((5, -2.0), (6, step), (8, -3.5))
    found = compare_answers(first, second)
    assert (found.elements, found.differing, found.index, found.max_ulp) == (3, 2, 1, 1)
    assert found.values == ("token 6, logprob -1.0", "token 6, logprob -1.0000001192092896")
    assert found.bits == ("0xbf800000", "0xbf800001")


def test_only_logprobs_part() -> None:
    found = compare_answers(answer((5, -2.0)), answer((5, -2.5)))
    assert (found.index, found.differing, found.max_ulp) == (0, 1, 2097152)


def test_tokens_part_at_once() -> None:
    found = compare_answers(answer((5, -2.0)), answer((6, -2.0)))
    assert (found.index, found.max_ulp) == (0, None)
    assert found.values == ("token 5, logprob -2.0", "token 6, logprob -2.0")


def test_one_answer_is_the_others_beginning() -> None:
    found = compare_answers(answer((5, -2.0)), answer((5, -2.0), (6, -1.0)))
    assert (found.elements, found.differing, found.index) == (2, 1, 1)
    assert found.values == ("the end", "token 6, logprob -1.0")
    assert found.bits == ("-", "0xbf800000")


def test_logprobs_of_zero_are_in_one_place_and_nan_is_in_none() -> None:
    assert compare_answers(answer((1, 0.0)), answer((1, -0.0))).max_ulp == 0
    assert compare_answers(answer((1, 0.0)), answer((1, float("nan")))).max_ulp is None

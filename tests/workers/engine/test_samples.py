from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.samples import compare, decode, encode


def sample(*pairs: tuple[int, float]) -> bytes:
    return encode([token for token, _ in pairs], np.array([logprob for _, logprob in pairs], dtype=np.float32))


def test_the_bytes_are_as_documented() -> None:
    assert sample((7, -1.5), (300, -0.25)) == struct.pack("<I2I2f", 2, 7, 300, -1.5, -0.25)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(width=32))))
def test_what_is_encoded_is_decoded(pairs: list[tuple[int, float]]) -> None:
    tokens, logprobs = decode(sample(*pairs))
    assert tokens.tolist() == [token for token, _ in pairs]
    expected = np.array([logprob for _, logprob in pairs], dtype=np.float32)
    assert logprobs.tobytes() == expected.tobytes()


def test_bits_count_not_values() -> None:
    assert sample((1, 0.0)) != sample((1, -0.0))
    assert sample((1, float("nan"))) == sample((1, float("nan")))


def test_logprobs_must_be_float32_and_as_many_as_tokens() -> None:
    with pytest.raises(ValueError, match=r"logprobs are float64 of shape \(1,\); 1 tokens need as many float32"):
        encode([1], np.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 tokens need as many"):
        encode([1, 2], np.zeros(1, dtype=np.float32))


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0\0\0", sample((1, 1.0)) + b"\0"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="are not a sample"):
        decode(data)


def test_equal_samples_have_no_difference() -> None:
    assert compare(sample((1, -1.0)), sample((1, -1.0))) is None


def test_logprobs_part_before_the_tokens_do() -> None:
    step = float(np.nextafter(np.float32(-1), np.float32(-2)))
    first, second = sample((5, -2.0), (6, -1.0), (7, -3.0)), sample((5, -2.0), (6, step), (8, -3.5))
    found = compare(first, second)
    assert found is not None
    assert (found.position, found.token_position) == (1, 2)
    assert (found.tokens, found.logprobs, found.ulp) == ((7, 8), (-1.0, step), 1)
    assert str(found) == "token 2 is 7 and 8; logprob 1 was -1 and -1.00000012 (1 ULP apart)"


def test_only_logprobs_part() -> None:
    found = compare(sample((5, -2.0)), sample((5, -2.5)))
    assert found is not None
    assert (found.token_position, found.tokens) == (None, (5, 5))
    assert str(found) == "logprob 0 is -2 and -2.5 (2097152 ULP apart); the tokens are the same"


def test_tokens_part_at_once() -> None:
    found = compare(sample((5, -2.0)), sample((6, -2.0)))
    assert str(found) == "token 0 is 5 and 6, logprobs -2 and -2 (0 ULP apart)"


def test_one_is_the_others_beginning() -> None:
    found = compare(sample((5, -2.0)), sample((5, -2.0), (6, -1.0)))
    assert found is not None
    assert (found.position, found.tokens, found.logprobs, found.ulp) == (1, (None, 6), (None, -1.0), None)
    assert str(found) == "one has 1 tokens and the other 2; they agree as far as both go"


def test_zeros_of_both_signs_are_in_one_place_and_nan_is_in_none() -> None:
    zeros = compare(sample((1, 0.0)), sample((1, -0.0)))
    assert zeros is not None
    assert zeros.ulp == 0
    nan = compare(sample((1, 0.0)), sample((1, float("nan"))))
    assert nan is not None
    assert nan.ulp is None

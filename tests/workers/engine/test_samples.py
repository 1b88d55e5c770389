from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.samples import decode, encode


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

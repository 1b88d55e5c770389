"""A completion as a sample: the bytes that are digested and kept as a witness, and how two of them differ.

The bytes are, little-endian and without padding:

    number of tokens n      uint32
    n token ids             uint32 each
    n logprobs              float32 each, their bits as they were computed
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def encode(tokens: Sequence[int], logprobs: NDArray[np.float32]) -> bytes:
    """Raises ValueError where there is not one float32 logprob for each token."""
    if logprobs.dtype != np.float32 or logprobs.shape != (len(tokens),):
        raise ValueError(
            f"logprobs are {logprobs.dtype} of shape {logprobs.shape}; {len(tokens)} tokens need as many float32"
        )
    ids = np.asarray(tokens, dtype="<u4")
    return struct.pack("<I", len(tokens)) + ids.tobytes() + logprobs.astype("<f4", copy=False).tobytes()


def decode(sample: bytes) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Token ids and logprobs. Raises ValueError for bytes that ``encode`` did not make."""
    count = struct.unpack_from("<I", sample)[0] if len(sample) >= 4 else -1
    if len(sample) != 4 + 8 * count:
        raise ValueError(f"{len(sample)} bytes are not a sample of {count} tokens, which has 4 + 8 for each token")
    ids = np.frombuffer(sample, "<u4", count, 4).astype(np.uint32)
    return ids, np.frombuffer(sample, "<f4", count, 4 + 4 * count).astype(np.float32)


@dataclass(frozen=True)
class Difference:
    """Where two completions of one prompt first part. Positions count new tokens from 0."""

    position: int
    """First one where token or logprob bits differ; the shorter one's length where it is the other's beginning."""
    token_position: int | None
    """First one where the tokens differ; None where only logprobs do, or the lengths."""
    lengths: tuple[int, int]
    tokens: tuple[int | None, int | None]
    """At ``token_position``, or else at ``position``; None past the end."""
    logprobs: tuple[float | None, float | None]
    """At ``position``: of the last tokens before the completions part these say most."""
    ulp: int | None
    """Between these logprobs, in float32 steps; None past the end, or where one is not a finite number."""

    def __str__(self) -> str:
        first, second = (_shown(logprob) for logprob in self.logprobs)
        distance = "" if self.ulp is None else f" ({self.ulp} ULP apart)"
        if self.token_position is None and None not in self.tokens:
            return f"logprob {self.position} is {first} and {second}{distance}; the tokens are the same"
        if self.token_position is None:
            return f"one has {self.lengths[0]} tokens and the other {self.lengths[1]}; they agree as far as both go"
        before = "" if self.position == self.token_position else f"; logprob {self.position} was"
        return (
            f"token {self.token_position} is {self.tokens[0]} and {self.tokens[1]}"
            f"{before or ', logprobs'} {first} and {second}{distance}"
        )


def compare(first: bytes, second: bytes) -> Difference | None:
    """What differs between two samples; None where nothing does."""
    if first == second:
        return None
    (tokens_a, logprobs_a), (tokens_b, logprobs_b) = decode(first), decode(second)
    both = min(len(tokens_a), len(tokens_b))
    other_token = tokens_a[:both] != tokens_b[:both]
    other_bits = logprobs_a[:both].view(np.uint32) != logprobs_b[:both].view(np.uint32)
    position = _first(other_token | other_bits)
    token_position = _first(other_token)
    at = both if position is None else position
    token_at = at if token_position is None else token_position
    pair = _item(logprobs_a, at), _item(logprobs_b, at)
    return Difference(
        position=at,
        token_position=token_position,
        lengths=(len(tokens_a), len(tokens_b)),
        tokens=(_integer(tokens_a, token_at), _integer(tokens_b, token_at)),
        logprobs=pair,
        ulp=_ulp(*pair),
    )


def _first(differs: NDArray[np.bool_]) -> int | None:
    return int(differs.argmax()) if differs.any() else None


def _item(logprobs: NDArray[np.float32], at: int) -> float | None:
    return float(logprobs[at]) if at < len(logprobs) else None


def _integer(tokens: NDArray[np.uint32], at: int) -> int | None:
    return int(tokens[at]) if at < len(tokens) else None


def _ulp(first: float | None, second: float | None) -> int | None:
    if first is None or second is None or not np.isfinite([first, second]).all():
        return None
    return abs(_ordered(first) - _ordered(second))


def _ordered(value: float) -> int:
    """float32 numbers in their order, as consecutive integers."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _shown(logprob: float | None) -> str:
    return "none" if logprob is None else f"{logprob:.9g}"

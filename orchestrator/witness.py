"""How two samples of the same group differ, element by element, compared as bits: outputs of a GEMM, or answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specs.job import Dtype
from workers.engine.samples import decode

_UNSIGNED: dict[Dtype, Any] = {Dtype.BF16: np.uint16, Dtype.FP16: np.uint16, Dtype.FP32: np.uint32}


@dataclass(frozen=True)
class Difference:
    elements: int
    differing: int
    index: int
    coordinates: tuple[int, ...]
    values: tuple[str, str]
    bits: tuple[str, str]
    max_ulp: int | None


def compare_samples(first: bytes, second: bytes, dtype: Dtype, *, row_length: int) -> Difference:
    """Compare two row-major arrays of ``dtype`` of equal size, with ``row_length`` elements a row.

    Raises ValueError where their sizes differ or all their bits are equal: such a pair is no witness.
    """
    a, b = (np.frombuffer(sample, dtype=_UNSIGNED[dtype]) for sample in (first, second))
    if a.size != b.size:
        raise ValueError(f"the samples have {a.size} and {b.size} elements")
    places = np.flatnonzero(a != b)
    if places.size == 0:
        raise ValueError("the samples are equal")
    index = int(places[0])
    floats = _as_float(a[places], dtype), _as_float(b[places], dtype)
    comparable = not (np.isnan(floats[0]).any() or np.isnan(floats[1]).any())
    width = a.itemsize * 2
    return Difference(
        elements=a.size,
        differing=int(places.size),
        index=index,
        coordinates=divmod(index, row_length) if a.size > row_length else (index,),
        values=(_decimal(a[index : index + 1], dtype), _decimal(b[index : index + 1], dtype)),
        bits=(f"0x{int(a[index]):0{width}x}", f"0x{int(b[index]):0{width}x}"),
        max_ulp=int(np.abs(_ordinal(a[places]) - _ordinal(b[places])).max()) if comparable else None,
    )


def compare_answers(first: bytes, second: bytes) -> Difference:
    """Compare two answers of a model (see ``workers.engine.samples``). An element is a position: token and logprob.

    ``max_ulp`` is that of the logprobs up to the first token that differs: behind it the answers have no more to do
    with each other. Raises ValueError where all their bits are equal.
    """
    a, b = decode(first), decode(second)
    shorter, longer = sorted((len(a[0]), len(b[0])))
    tokens = a[0][:shorter] != b[0][:shorter]
    bits = a[1][:shorter].view(np.uint32), b[1][:shorter].view(np.uint32)
    places = np.flatnonzero(tokens | (bits[0] != bits[1]))
    if places.size == 0 and shorter == longer:
        raise ValueError("the samples are equal")
    index = int(places[0]) if places.size else shorter
    common = int(np.flatnonzero(tokens)[0]) if tokens.any() else shorter
    comparable = common > 0 and not np.isnan(a[1][:common] + b[1][:common]).any()
    distances = np.abs(_ordinal(bits[0][:common]) - _ordinal(bits[1][:common]))
    return Difference(
        elements=longer,
        differing=int(places.size) + longer - shorter,
        index=index,
        coordinates=(index,),
        values=(_position(*a, index), _position(*b, index)),
        bits=(_logprob_bits(a[1], index), _logprob_bits(b[1], index)),
        max_ulp=int(distances.max()) if comparable else None,
    )


def _position(tokens: npt.NDArray[np.uint32], logprobs: npt.NDArray[np.float32], index: int) -> str:
    return f"token {tokens[index]}, logprob {logprobs[index]}" if index < len(tokens) else "the end"


def _logprob_bits(logprobs: npt.NDArray[np.float32], index: int) -> str:
    return f"0x{int(logprobs.view(np.uint32)[index]):08x}" if index < len(logprobs) else "-"


def _as_float(bits: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.float32]:
    if dtype is Dtype.BF16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if dtype is Dtype.FP16 else bits.view(np.float32)


def _decimal(bits: npt.NDArray[Any], dtype: Dtype) -> str:
    if dtype is Dtype.FP16:
        return str(bits.view(np.float16)[0])
    # numpy has no bfloat16: nine digits identify any float32, and so any bfloat16.
    return f"{_as_float(bits, dtype)[0]:.9g}" if dtype is Dtype.BF16 else str(_as_float(bits, dtype)[0])


def _ordinal(bits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Floats numbered in order of value: neighbours differ by 1, and both zeros are 0."""
    sign = 1 << (8 * bits.itemsize - 1)
    magnitude = (bits & (sign - 1)).astype(np.int64)
    return np.where(bits & sign, -magnitude, magnitude)

"""How two samples of the same group differ, element by element, compared as bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specs.job import Dtype

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

"""How one row came out twice: element by element, as bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class RowDifference:
    elements: int
    differing: int
    column: int
    """Of the first element that differs, in the row laid out flat."""
    values: tuple[str, str]
    bits: tuple[str, str]
    """Hexadecimal."""
    max_ulp: int | None
    """None for numbers that are no floats of 2 or 4 bytes, and where a NaN is involved."""


def row_difference(first: torch.Tensor, second: torch.Tensor) -> RowDifference | None:
    """Of two tensors of one shape and type, on the CPU; None where all bits are equal."""
    a, b = (_bits(tensor) for tensor in (first, second))
    places = (a != b).nonzero()[:, 0]
    if len(places) == 0:
        return None
    column = int(places[0])
    numbers = [float(tensor.flatten()[column]) for tensor in (first, second)]
    width = 2 * first.element_size()
    mask = (1 << 4 * width) - 1
    one, other = (f"0x{int(bits[column]) & mask:0{width}x}" for bits in (a, b))
    return RowDifference(
        elements=len(a),
        differing=len(places),
        column=column,
        values=(f"{numbers[0]:.9g}", f"{numbers[1]:.9g}"),
        bits=(one, other),
        max_ulp=_max_ulp(first, second, a[places], b[places]),
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_INTEGERS[tensor.element_size()]).flatten()


def _max_ulp(first: torch.Tensor, second: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> int | None:
    floats = first.is_floating_point() and first.element_size() in (2, 4)
    if not floats or first.isnan().any() or second.isnan().any():
        return None
    return int((_ordinal(a) - _ordinal(b)).abs().max())


def _ordinal(bits: torch.Tensor) -> torch.Tensor:
    """Floats numbered in order of value: neighbours differ by 1, and both zeros are 0."""
    magnitude = bits.long() & ((1 << 8 * bits.element_size() - 1) - 1)
    return torch.where(bits < 0, -magnitude, magnitude)

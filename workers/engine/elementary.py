"""exp and log of float64 tensors, each element a function of itself alone.

A CPU's vectorised exp takes other instructions at the end of an array than in its middle, and may round otherwise
there, so that an element's result would depend on its place and so on the rest of the batch. Additions,
multiplications and divisions are rounded correctly everywhere (IEEE 754); these functions are made of nothing else.
On a GPU one thread computes one element, always with the same instructions: there torch's own logarithm is taken.

Reduction and constants as in fdlibm's e_exp.c and e_log.c (Sun, 1993); the series are plain Taylor series, long enough
for float64.
"""

from __future__ import annotations

import math

import torch

# ln 2 in two parts; the first has 20 zero bits at its end, so that its product with an exponent is exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10

_EXP_SERIES = tuple(1 / math.factorial(i) for i in range(13, -1, -1))
_LOG_SERIES = tuple(2 / (2 * i + 1) for i in range(11, 0, -1))

_WHOLE = 1.5 * 2.0**52
"""Numbers next to it are whole: adding it rounds to an integer."""

_SMALLEST_EXPONENT = -708.0
"""exp of less has no normal float64; it counts as exp of this."""


def exp(x: torch.Tensor) -> torch.Tensor:
    """e to the power of each element, which is at most 0. NaN stays NaN."""
    x = x.clamp(min=_SMALLEST_EXPONENT)
    # To the nearest integer. torch.round wakes threads for as little as 64 rows of 320, and waits for them.
    twos = (x * (1 / math.log(2)) + _WHOLE) - _WHOLE
    rest = (x - twos * _LN2_HIGH) - twos * _LN2_LOW
    # Of NaN the conversion gives any integer, and the product below is NaN whatever that is.
    power = ((twos.long() + 1023) << 52).view(torch.float64)
    return _polynomial(_EXP_SERIES, rest) * power


def log(x: torch.Tensor) -> torch.Tensor:
    """The natural logarithm of each element, which is positive, normal and finite. NaN stays NaN."""
    if x.is_cuda:
        return torch.log(x)
    mantissa, exponent = torch.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, mantissa * 2, mantissa)
    twos = (exponent - small.int()).double()
    # log((1 + s) / (1 - s)) = 2 s + 2 s^3 / 3 + ...
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = _polynomial(_LOG_SERIES, square) * square
    return twos * _LN2_HIGH + (s * 2 + (s * series + twos * _LN2_LOW))


def _polynomial(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    """By Horner's rule; the highest power's coefficient comes first."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value.mul_(x).add_(coefficient)
    return value

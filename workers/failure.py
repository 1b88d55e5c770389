"""Failures that travel from a worker as data."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from specs.errors import FarmError, UsageError


@dataclass(frozen=True)
class Failure:
    """Why a call gave nothing. ``retry`` is False where the same call would fail again."""

    reason: str
    traceback: str
    retry: bool
    usage: bool = False


def failure_of(error: Exception) -> Failure:
    """What is sent in the place of an exception."""
    expected = isinstance(error, FarmError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    return Failure(reason, traceback.format_exc(), retry=not expected, usage=isinstance(error, UsageError))

"""Failures that travel from a worker as data."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from specs.errors import FarmError, UsageError

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """Why a call gave nothing. ``retry`` is False where the same call would fail again."""

    reason: str
    traceback: str
    retry: bool
    broken: bool
    """The process can do no more: whatever it is asked next would fail."""
    usage: bool = False


def told(method: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], T | Failure]:
    """The method with exceptions as answers, since Ray would wrap them, or lose what it can't unpickle."""

    @wraps(method)
    def answering(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T | Failure:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            return _failure_of(error)

    return answering


def _failure_of(error: Exception) -> Failure:
    """What is sent in the place of an exception."""
    expected = isinstance(error, FarmError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    usage = isinstance(error, UsageError)
    return Failure(reason, traceback.format_exc(), retry=not expected, broken=_lost_its_device(), usage=usage)


def _lost_its_device() -> bool:
    """Whether a kernel left the CUDA context in an error, as an illegal access does, that every later call meets."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False

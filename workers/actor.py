"""What the farm starts on Ray: one worker per GPU, or per set of CPU cores. Failures travel as data."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from specs.errors import FarmError, UsageError
from specs.job import Device, Property
from specs.result import Environment
from specs.unit import WorkUnit
from workers.runner import Outputs, Runner


@dataclass(frozen=True)
class Failure:
    """Why a call gave nothing. ``retry`` is False where the same call would fail again."""

    reason: str
    traceback: str
    retry: bool
    usage: bool = False


class Worker:
    """Runs units on the device that Ray gave this process."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._runner: Runner | None = None

    def ping(self) -> bool:
        """Answers as soon as the worker has its resources."""
        return True

    def prepare(self) -> Environment | Failure:
        """Build or load the kernels; what comes back is compared with the other workers' before anything is run."""
        try:
            import torch

            self._runner = Runner(torch.device("cuda", 0) if self._device is Device.CUDA else torch.device("cpu"))
            return self._runner.environment
        except Exception as error:
            return _failure(error)

    def run(self, unit: WorkUnit, attempt: int, known: frozenset[str]) -> Outputs | Failure:
        """Run one unit, after ``prepare``."""
        assert self._runner is not None
        try:
            if unit.purpose is Property.CROSS_PROCESS:
                from workers.fresh import run_fresh

                return run_fresh(unit, attempt, known)
            return self._runner.run(unit, attempt, known)
        except Exception as error:
            return _failure(error)


def _failure(error: Exception) -> Failure:
    expected = isinstance(error, FarmError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    return Failure(reason, traceback.format_exc(), retry=not expected, usage=isinstance(error, UsageError))

"""What the farm starts on Ray: one worker per GPU, or per set of CPU cores. Failures travel as data."""

from __future__ import annotations

from specs.device import Device
from specs.job import Property
from specs.result import Environment
from specs.unit import KernelUnit
from workers.failure import told
from workers.runner import Known, Outputs, Runner


class Worker:
    """Runs units on the device that Ray gave this process."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._runner: Runner | None = None

    def ping(self) -> bool:
        """Answers as soon as the worker has its resources."""
        return True

    @told
    def prepare(self) -> Environment:
        """Build or load the kernels; what comes back is compared with the other workers' before anything is run."""
        import torch

        self._runner = Runner(torch.device("cuda", 0) if self._device is Device.CUDA else torch.device("cpu"))
        return self._runner.environment

    @told
    def run(self, unit: KernelUnit, attempt: int, known: Known) -> Outputs:
        """Run one unit, after ``prepare``."""
        assert self._runner is not None
        if unit.purpose is Property.CROSS_PROCESS:
            from workers.fresh import run_fresh

            return run_fresh(unit, attempt, known)
        return self._runner.run(unit, attempt, known)

"""Runs work units on one device: inputs, launches, digests, and the first samples of each digest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from specs.job import Property
from specs.result import Environment, Measurement, UnitResult
from specs.uniqueness import UniquenessTable
from specs.unit import Group, KernelUnit
from workers import device_trials, host_trials
from workers.build import Backend, build
from workers.environment import capture
from workers.gemm.reference import relative_error, rounding_floor
from workers.gemm.target import QUIET, GemmTarget, Launch
from workers.gemm.targets import find_target
from workers.ledger import Ledger
from workers.problem import TORCH_DTYPES, Problem
from workers.stress import Stressed
from workers.timing import LaunchTimes, rotated, time_launches, wall_seconds

ACROSS_DEVICES = "all devices"
"""Stratum of cross_device, the one property whose samples may come from different devices."""


@dataclass(frozen=True)
class Outputs:
    """What a unit gives: its result, and of each group the bytes of samples by digest in hex."""

    result: UnitResult
    samples: dict[Group, dict[str, bytes]]
    batches: str | None = None
    """Of a model's unit, the requests that were drawn, as JSON."""
    artefacts: dict[str, bytes] = field(default_factory=dict)
    """Of a model's unit, the tensors of operations that parted: safetensors files by digest in hex."""


Known = Mapping[Group, frozenset[str]]
"""Of each group, the digests, in hex, of samples that the farm has already: they are not sent again."""


class Runner:
    """Runs units one after the other on ``device``, keeping the inputs and the reference of the last shape."""

    def __init__(self, device: torch.device) -> None:
        backend: Backend = "cuda" if device.type == "cuda" else "cpu"
        self.device = device
        self.environment: Environment = capture(device, build(backend).key)
        self._problem: Problem | None = None

    def run(self, unit: KernelUnit, attempt: int, known: Known = MappingProxyType({})) -> Outputs:
        """Run one unit.

        Raises UsageError for a variant that can't be found, KernelError where a launch fails.
        """
        started = time.perf_counter()
        target = find_target(unit.variant)
        unsupported = _unsupported(unit, target, self.device)
        table, samples, measurement = UniquenessTable(), dict[Group, dict[str, bytes]](), None
        if unsupported is None and unit.purpose == "measure":
            measurement = self._measure(unit, target)
        elif unsupported is None:
            across = unit.purpose is Property.CROSS_DEVICE
            cell = table.cell(unit.group, ACROSS_DEVICES if across else self.environment.stratum)
            ledger = Ledger(unit, attempt, self.environment, cell, known.get(unit.group, frozenset()))
            self._sample(unit, target, ledger)
            samples[unit.group] = ledger.samples
        result = UnitResult(
            unit=unit.index,
            attempt=attempt,
            environment=self.environment,
            cells=table.records(),
            measurement=measurement,
            unsupported=unsupported,
            seconds=time.perf_counter() - started,
        )
        return Outputs(result, samples)

    def _sample(self, unit: KernelUnit, target: GemmTarget, ledger: Ledger) -> None:
        trials = device_trials if self.device.type == "cuda" else host_trials
        sampling = trials.batch_rows if unit.purpose is Property.BATCH_INVARIANCE else trials.repeats
        with Stressed(unit, target, self.device) as stressed:
            sampling(unit, stressed, self._problem_of(unit), ledger)

    def _measure(self, unit: KernelUnit, target: GemmTarget) -> Measurement:
        problem = self._problem_of(unit)
        out = problem.output(unit.dtype)
        launch = target.bind(problem.inputs, out)
        launch(QUIET)
        moved = problem.sensitivity(unit.dtype)
        if self.device.type == "cpu":
            times = _times_on_cpu(launch, unit.trials)
        else:
            calls = [target.call(inputs, out.dtype) for inputs in rotated(problem.inputs)]
            times = time_launches({unit.variant: calls}, turns=unit.trials)[unit.variant]
        return Measurement(
            relative_error=relative_error(out, problem.reference),
            rounding_floor=rounding_floor(problem.reference, out.dtype, unit.shape.k),
            reordered_elements=moved.changed,
            reordered_of=moved.checked,
            seconds=list(times.seconds),
            captured=times.captured,
        )

    def _problem_of(self, unit: KernelUnit) -> Problem:
        if self._problem is None or self._problem.key != (unit.shape, unit.seed):
            self._problem = Problem(unit.shape, unit.seed, self.device)
        return self._problem


def _unsupported(unit: KernelUnit, target: GemmTarget, device: torch.device) -> str | None:
    if unit.purpose is Property.SM_COUNT and not target.takes_sm_count:
        return f"{unit.variant} can't be told how many SMs to use"
    shape = unit.shape
    return target.unsupported(shape.m, shape.n, shape.k, TORCH_DTYPES[unit.dtype], device)


def _times_on_cpu(launch: Launch, launches: int) -> LaunchTimes:
    return LaunchTimes(tuple(wall_seconds(lambda: launch(QUIET)) for _ in range(launches)), launches=1, captured=False)

"""From a job to work units. Pure: the same job and capacity give the same plan, and nothing is run or looked up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Literal

from orchestrator.model_plan import model_units
from specs.device import Device
from specs.errors import UsageError
from specs.job import STRESS_ON, Dtype, Property, Stress
from specs.kernel_job import KernelJob
from specs.kinds import Job
from specs.shapes import Shape
from specs.unit import Capacity, KernelUnit, Plan, WorkUnit, pool_rows

UNIT_SECONDS = 4.0
"""About how long a unit should take: what a crash loses, and how often progress shows."""
MEASURE_ROUNDS = 3
MEASURE_LAUNCHES = 5
"""Timed launches are spread over rounds, so that a slow spell of the machine hits all variants alike."""

_FLOPS = {Device.CPU: 6e10, Device.CUDA: 3e14}
_OVERHEAD_S = {Device.CPU: 2e-3, Device.CUDA: 1e-4}


def make_plan(job: Job, capacity: Capacity) -> Plan:
    """The units of a job, in the order they are run. Raises UsageError for what the device can't do."""
    units: Iterable[WorkUnit] = (
        _kernel_units(job, capacity) if isinstance(job, KernelJob) else model_units(job, capacity)
    )
    numbered = tuple(unit.model_copy(update={"index": index}) for index, unit in enumerate(units))
    return Plan(job=job, capacity=capacity, units=numbered)


def _kernel_units(job: KernelJob, capacity: Capacity) -> Iterator[KernelUnit]:
    """Shape by shape, and within a shape the variants take turns."""
    for stress in job.stress:
        if stress not in STRESS_ON[capacity.device]:
            allowed = ", ".join(STRESS_ON[capacity.device])
            raise UsageError(f"stress {stress} can't be made on {capacity.device}; allowed there: {allowed}")
    for shape in job.expanded_shapes():
        for dtype in job.dtypes:
            turns = [list(_units_of(job, capacity, variant.name, shape, dtype)) for variant in job.variants]
            for turn in zip_longest(*turns):
                yield from filter(None, turn)


def _units_of(job: KernelJob, capacity: Capacity, variant: str, shape: Shape, dtype: Dtype) -> Iterator[KernelUnit]:
    def unit(
        purpose: Property | Literal["measure"], stress: Stress, first: int, trials: int, slot: int | None = None
    ) -> KernelUnit:
        return KernelUnit(
            index=0,
            variant=variant,
            shape=shape,
            dtype=dtype,
            purpose=purpose,
            stress=stress,
            first_trial=first,
            trials=trials,
            seed=job.seed,
            device=capacity.device,
            cpus=capacity.cpus_per_worker,
            gpus=capacity.gpus_per_worker,
            slot=slot,
            estimate_s=_trial_seconds(shape, purpose, capacity.device) * trials,
            timeout_s=job.timeouts.unit,
        )

    for _ in range(MEASURE_ROUNDS):
        yield unit("measure", Stress.QUIET, 0, MEASURE_LAUNCHES)
    for prop in job.properties:
        for stress in job.stress:
            if prop is Property.CROSS_DEVICE:
                for slot, (first, trials) in enumerate(_shares(max(job.trials, capacity.workers), capacity.workers)):
                    yield unit(prop, stress, first, trials, slot)
            else:
                for first, trials in _chunks(job, shape, prop, capacity.device):
                    yield unit(prop, stress, first, trials)


def _chunks(job: KernelJob, shape: Shape, prop: Property, device: Device) -> Iterator[tuple[int, int]]:
    trials = job.trials_of(prop)
    size = max(2, int(UNIT_SECONDS / _trial_seconds(shape, prop, device)))
    if prop is Property.CROSS_PROCESS:
        return _shares(trials, min(trials, max(math.ceil(trials / size), job.processes)))
    return ((first, min(size, trials - first)) for first in range(0, trials, size))


def _shares(trials: int, parts: int) -> Iterator[tuple[int, int]]:
    """(first, count) of parts that differ by one at most."""
    for part in range(parts):
        first, end = part * trials // parts, (part + 1) * trials // parts
        yield first, end - first


def _trial_seconds(shape: Shape, purpose: Property | Literal["measure"], device: Device) -> float:
    """A guess for chunking and for `farm plan`; nothing is judged by it."""
    rows = pool_rows(shape) if purpose is Property.BATCH_INVARIANCE else shape.m
    return 2.0 * rows * shape.k * shape.n / _FLOPS[device] + _OVERHEAD_S[device]

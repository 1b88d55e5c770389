"""What the farm runs: a plan is a list of work units, and the same object is printed by `plan` and run by `submit`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from specs.job import Device, Dtype, KernelJob, Part, Property, Stress
from specs.shapes import Shape

SMALLEST_POOL = 256
"""Rows that batch_invariance draws its batches from, where the shape itself has fewer."""


class Group(NamedTuple):
    """What a verdict is about. Samples of one group and item have to be equal."""

    variant: str
    shape: Shape
    dtype: Dtype
    property: Property

    def __str__(self) -> str:
        return f"{self.variant} {self.shape} {self.dtype} {self.property}"


class WorkUnit(Part):
    """A chunk of trials of one group under one kind of stress, or (`measure`) its accuracy and speed."""

    index: int
    variant: str
    shape: Shape
    dtype: Dtype
    purpose: Property | Literal["measure"]
    stress: Stress
    first_trial: int
    trials: int
    seed: int
    device: Device
    cpus: float
    gpus: float
    slot: int | None = None
    """The one worker that has to run it, counted from 0, or None for any."""
    estimate_s: float
    timeout_s: float

    @property
    def group(self) -> Group:
        assert isinstance(self.purpose, Property)
        return Group(self.variant, self.shape, self.dtype, self.purpose)

    def __str__(self) -> str:
        return f"unit {self.index} ({self.variant} {self.shape} {self.dtype} {self.purpose} {self.stress})"


class Capacity(Part):
    """What the plan is made for: how many workers there can be, and what each one has."""

    device: Device
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


class Plan(Part):
    job: KernelJob
    capacity: Capacity
    units: tuple[WorkUnit, ...]

    @property
    def estimate_s(self) -> float:
        """Of the wall time, with every worker busy to the end."""
        return sum(unit.estimate_s for unit in self.units) / self.capacity.workers


def pool_rows(shape: Shape) -> int:
    """Rows of A that batch_invariance cuts its batches from."""
    return max(shape.m, SMALLEST_POOL)

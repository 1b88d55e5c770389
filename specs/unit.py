"""What the farm runs: a plan is a list of work units, and the same object is printed by `plan` and run by `submit`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from specs.device import Device
from specs.job import Dtype, Mode, Part, Property, Stress
from specs.kinds import Job
from specs.model_job import PROPERTY_OF
from specs.shapes import Shape
from specs.subject import Prompt, Subject

SMALLEST_POOL = 256
"""Rows that batch_invariance draws its batches from, where the shape itself has fewer."""


class Group(NamedTuple):
    """What a verdict is about. Samples of one group and item have to be equal."""

    variant: str
    subject: Subject
    dtype: Dtype
    property: Property

    def __str__(self) -> str:
        return f"{self.variant} {self.subject} {self.dtype} {self.property}"


class _Unit(Part):
    """What units of every kind have: a chunk of trials of one variant, and what a worker needs to run it."""

    index: int
    variant: str
    dtype: Dtype
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


class KernelUnit(_Unit):
    """A chunk of trials of one group under one kind of stress, or (`measure`) its accuracy and speed."""

    shape: Shape
    purpose: Property | Literal["measure"]
    stress: Stress

    @property
    def group(self) -> Group:
        assert isinstance(self.purpose, Property)
        return Group(self.variant, self.shape, self.dtype, self.purpose)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Whose samples it gives."""
        return () if self.purpose == "measure" else (self.group,)

    @property
    def activity(self) -> str:
        return f"{self.purpose} ({self.stress})"

    def __str__(self) -> str:
        return f"unit {self.index} ({self.variant} {self.shape} {self.dtype} {self.purpose} {self.stress})"


class ModelUnit(_Unit):
    """A chunk of batches of one mode, sent to one target."""

    mode: Mode
    prompts: tuple[str, ...]
    """Names of those that its batches hold."""
    family: str | None = None
    """Name of the targets that its answers are also compared with, those that differ in tp alone."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """Whose samples it gives."""
        found = [(self.variant, PROPERTY_OF[self.mode])]
        if self.family is not None:
            found.append((self.family, Property.TP_INVARIANCE))
        return tuple(
            Group(name, Prompt(self.mode, prompt), self.dtype, prop) for name, prop in found for prompt in self.prompts
        )

    @property
    def activity(self) -> str:
        return self.mode.value

    def __str__(self) -> str:
        return f"unit {self.index} ({self.variant} {self.dtype} {self.mode})"


WorkUnit = KernelUnit | ModelUnit


class Capacity(Part):
    """What the plan is made for: how many workers there can be, and what each one has.

    For a model job a worker is the gang of a target's ranks, and what is counted is what one rank has.
    """

    device: Device
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


class Plan(Part):
    job: Job
    capacity: Capacity
    units: tuple[WorkUnit, ...]

    @property
    def estimate_s(self) -> float:
        """Of the wall time, with every worker busy to the end."""
        return sum(unit.estimate_s for unit in self.units) / self.capacity.workers


def pool_rows(shape: Shape) -> int:
    """Rows of A that batch_invariance cuts its batches from."""
    return max(shape.m, SMALLEST_POOL)

"""From a model job to work units. Pure, as `orchestrator.plan` is."""

from __future__ import annotations

from collections.abc import Iterator

from specs.device import Device
from specs.job import Mode
from specs.model_job import ModelJob, ModelTarget
from specs.unit import Capacity, ModelUnit
from workers.drawing import TIMED, prompt_names

UNIT_SECONDS = 10.0
"""About how long a unit should take: more than of kernels, since a lost gang costs that much to start again."""

_STEP_S = {Device.CPU: 0.02, Device.CUDA: 0.03}
_STEP_MORE_PER_ROW = {Device.CPU: 0.1, Device.CUDA: 0.01}


def model_units(job: ModelJob, capacity: Capacity) -> Iterator[ModelUnit]:
    """Target by target, since starting the ranks of another costs most, and mode by mode."""
    names = {mode: prompt_names(job, mode) for mode in job.modes}
    families = {target.name: family for family, members in job.families().items() for target in members}
    for target in job.targets:
        family = families.get(target.name) if job.tp_invariance else None
        for mode in job.modes:
            for first, last in _chunks(job, mode, capacity.device):
                held = {name: None for batch in names[mode][first - 1 : last] for name in batch}
                prompts = tuple(sorted(held, key=_length)) if mode is Mode.PREFIX else tuple(held)
                yield _unit(job, capacity, target, mode, first, last, prompts, family)


def _unit(
    job: ModelJob,
    capacity: Capacity,
    target: ModelTarget,
    mode: Mode,
    first: int,
    last: int,
    prompts: tuple[str, ...],
    family: str | None,
) -> ModelUnit:
    middle = _trial_seconds(job, mode, (first + last + 1) // 2, capacity.device)
    trials = sum(_trial_seconds(job, mode, number, capacity.device) for number in range(first, last + 1))
    return ModelUnit(
        index=0,
        variant=target.name,
        dtype=job.dtype,
        mode=mode,
        prompts=prompts,
        family=family,
        first_trial=first,
        trials=last - first + 1,
        seed=job.seed,
        device=capacity.device,
        cpus=target.tp * capacity.cpus_per_worker,
        gpus=target.tp * capacity.gpus_per_worker,
        estimate_s=trials + TIMED[capacity.device] * middle,
        timeout_s=job.timeouts.unit,
    )


def _length(prefix: str) -> int:
    return int(prefix.rpartition(" ")[2])


def _chunks(job: ModelJob, mode: Mode, device: Device) -> Iterator[tuple[int, int]]:
    """(first, last) batch, counted from 1."""
    first, seconds = 1, 0.0
    for number in range(1, job.trials + 1):
        seconds += _trial_seconds(job, mode, number, device)
        if seconds >= UNIT_SECONDS or number == job.trials:
            yield first, number
            first, seconds = number + 1, 0.0


def _trial_seconds(job: ModelJob, mode: Mode, number: int, device: Device) -> float:
    """A guess for chunking and for `farm plan`; nothing is judged by it."""
    if mode is Mode.RADIX_CACHE:
        return 6 * _STEP_S[device]
    rows = 5 if mode is Mode.NEIGHBOUR else number + (job.n_start - 1 if mode is Mode.PREFIX else 0)
    return job.max_new_tokens * _STEP_S[device] * (1 + rows * _STEP_MORE_PER_ROW[device])

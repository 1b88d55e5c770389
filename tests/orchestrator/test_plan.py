from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from orchestrator.plan import make_plan
from specs.device import Device
from specs.job import Property, Stress
from specs.unit import Capacity, Plan
from tests.orchestrator.builders import job, kernel_units

ONE_CPU = Capacity(device=Device.CPU, workers=1, cpus_per_worker=2, gpus_per_worker=0)
TWO_GPUS = Capacity(device=Device.CUDA, workers=2, cpus_per_worker=1, gpus_per_worker=1)


def test_every_trial_of_every_group_and_stress_is_planned_once() -> None:
    wanted = job(
        variants=["streamk", "invariant"],
        shapes=[[128, 7168, 1536], [2048, 2048, 2048]],
        dtypes=["bf16", "fp32"],
        properties=["run_to_run", "batch_invariance"],
        stress=["quiet", "random_pauses"],
        trials=70,
    )
    plan = make_plan(wanted, ONE_CPU)
    for variant in ("streamk", "invariant"):
        for shape in wanted.expanded_shapes():
            for dtype in wanted.dtypes:
                for prop in wanted.properties:
                    for stress in wanted.stress:
                        where = (variant, shape, dtype, prop, stress)
                        units = [
                            u for u in kernel_units(plan) if (u.variant, u.shape, u.dtype, u.purpose, u.stress) == where
                        ]
                        trials = [t for u in units for t in range(u.first_trial, u.first_trial + u.trials)]
                        assert sorted(trials) == list(range(70)), where
    assert [unit.index for unit in plan.units] == list(range(len(plan.units)))


def test_variants_take_turns() -> None:
    plan = make_plan(job(variants=["streamk", "invariant", "persistent"]), ONE_CPU)
    runs = [len(list(units)) for _, units in groupby(plan.units, key=lambda unit: unit.variant)]
    assert runs == [1] * len(plan.units)


def test_a_plan_is_the_same_every_time_and_survives_being_stored() -> None:
    plan = make_plan(job(), ONE_CPU)
    assert make_plan(job(), ONE_CPU) == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_cross_device_pins_a_share_to_every_worker() -> None:
    plan = make_plan(job(properties=["cross_device"], trials=50), TWO_GPUS)
    pinned = [u for u in kernel_units(plan) if u.purpose is Property.CROSS_DEVICE and u.variant == "invariant"]
    assert [(unit.slot, unit.first_trial, unit.trials) for unit in pinned] == [(0, 0, 25), (1, 25, 25)]
    assert all(unit.slot is None for unit in kernel_units(plan) if unit.purpose == "measure")


def test_cross_process_is_shared_among_the_processes_asked_for() -> None:
    plan = make_plan(job(properties=["cross_process"], trials=9, processes=3, shapes=[[8, 128, 8]]), ONE_CPU)
    units = [u for u in kernel_units(plan) if u.purpose is Property.CROSS_PROCESS and u.variant == "streamk"]
    assert [unit.trials for unit in units] == [3, 3, 3]


@pytest.mark.parametrize(("processes", "trials", "each"), [(3, 50, {16, 17}), (64, 100, {1, 2}), (4, 3, {1})])
def test_there_are_as_many_processes_and_trials_as_were_asked_for(processes: int, trials: int, each: set[int]) -> None:
    asked: dict[str, Any] = {"processes": processes, "trials": trials, "shapes": [[8, 128, 8]]}
    made = make_plan(job(properties=["cross_process"], **asked), ONE_CPU)
    units = [u for u in kernel_units(made) if u.purpose is Property.CROSS_PROCESS]
    ours = [u for u in units if u.variant == "invariant"]
    assert (len(ours), {u.trials for u in ours}) == (min(processes, trials), each)
    assert [t for u in ours for t in range(u.first_trial, u.first_trial + u.trials)] == list(range(trials))


def test_no_trial_of_cross_device_is_lost_to_rounding() -> None:
    eight = Capacity(device=Device.CUDA, workers=8, cpus_per_worker=1, gpus_per_worker=1)
    units = kernel_units(make_plan(job(properties=["cross_device"], trials=50), eight))
    assert sum(u.trials for u in units if u.purpose is Property.CROSS_DEVICE and u.variant == "invariant") == 50


def test_timed_launches_are_spread_over_rounds_and_never_stressed() -> None:
    plan = make_plan(job(stress=["competing_threads"]), ONE_CPU)
    measured = [unit for unit in kernel_units(plan) if unit.purpose == "measure" and unit.variant == "invariant"]
    assert len(measured) > 1
    assert {unit.stress for unit in measured} == {Stress.QUIET}

from __future__ import annotations

from itertools import groupby

from orchestrator.plan import make_plan
from specs.device import Device
from specs.job import Mode
from specs.unit import Capacity, ModelUnit, Plan
from tests.orchestrator.builders import model_job

ONE_GANG = Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0)


def units(plan: Plan) -> list[ModelUnit]:
    return [unit for unit in plan.units if isinstance(unit, ModelUnit)]


def test_every_batch_of_every_target_and_mode_is_planned_once() -> None:
    job = model_job(modes=list(map(str, Mode)), trials=50, max_new_tokens=100)
    plan = make_plan(job, ONE_GANG)
    for target in job.targets:
        for mode in job.modes:
            chunks = [u for u in units(plan) if (u.variant, u.mode) == (target.name, mode)]
            batches = [b for u in chunks for b in range(u.first_trial, u.first_trial + u.trials)]
            assert batches == list(range(1, 51)), (target.name, mode)
    assert len([u for u in units(plan) if u.mode is Mode.SINGLE]) > 4


def test_targets_come_one_after_the_other_since_their_gangs_do() -> None:
    plan = make_plan(model_job(modes=["single", "mixed"], trials=50, max_new_tokens=100), ONE_GANG)
    assert [name for name, _ in groupby(plan.units, key=lambda unit: unit.variant)] == ["streamk", "invariant"]


def test_a_plan_survives_being_stored() -> None:
    plan = make_plan(model_job(), ONE_GANG)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_prompts_are_those_that_the_batches_hold_and_prefixes_stand_by_length() -> None:
    plan = make_plan(model_job(modes=["mixed", "prefix"], trials=12, prefix_lengths=[511, 1, 40]), ONE_GANG)
    mixed, prefix = units(plan)[:2]
    assert mixed.prompts == ("prompt 1", "prompt 2", "long prompt")
    assert prefix.prompts == ("prefix length 1", "prefix length 40", "prefix length 511")


def test_a_family_is_named_where_its_targets_are_to_be_compared() -> None:
    targets = [{"name": "a", "tp": 1}, {"name": "b", "tp": 2}, {"name": "c", "gemm": "streamk"}]
    compared = make_plan(model_job(targets=targets, tp_invariance=True), ONE_GANG)
    assert [unit.family for unit in units(compared)] == ["a+b", "a+b", None]
    assert {unit.family for unit in units(make_plan(model_job(targets=targets), ONE_GANG))} == {None}

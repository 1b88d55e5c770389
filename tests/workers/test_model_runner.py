"""Units of a model job on one rank, in this process."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import torch

from orchestrator.judge import judge
from orchestrator.plan import make_plan
from specs.device import Device
from specs.errors import UsageError
from specs.job import Mode, Property
from specs.model_job import CollectiveName, ModelJob, RandomModel
from specs.result import Judgement, Outcome
from specs.unit import Capacity, ModelUnit
from tests.orchestrator.builders import model_job
from workers.drawing import FIRST_ROW
from workers.engine.prompts import own_prompts
from workers.engine.samples import decode
from workers.model.collectives import COLLECTIVES
from workers.model.config import PRESETS
from workers.model_runner import ModelRunner
from workers.runner import Outputs

TARGETS = [
    {"name": "streamk", "gemm": "streamk", "expect": "nondeterministic"},
    {"name": "invariant", "gemm": "invariant", "collective": "ordered", "deterministic": True},
]


def one_rank(**changes: Any) -> ModelJob:
    return model_job(**dict[str, Any](targets=TARGETS) | changes)


def ran(job: ModelJob, target: str) -> list[tuple[ModelUnit, Outputs]]:
    runner = ModelRunner(job, job.target(target), 0, torch.device("cpu"))
    plan = make_plan(job, Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0))
    units = [unit for unit in plan.units if isinstance(unit, ModelUnit) and unit.variant == target]
    return [(unit, runner.run(unit, 1, {})) for unit in units]


def judged(job: ModelJob) -> Judgement:
    plan = make_plan(job, Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0))
    outputs = [outputs for target in job.targets for _, outputs in ran(job, target.name)]
    samples = {name: kept for each in outputs for group in each.samples.values() for name, kept in group.items()}
    return judge(plan, [each.result for each in outputs], [], samples.get)


@pytest.fixture(scope="module")
def every_mode() -> Judgement:
    return judged(one_rank(modes=list(map(str, Mode)), trials=5, max_new_tokens=6))


def test_the_control_flips_and_the_invariant_model_does_not_in_every_mode(every_mode: Judgement) -> None:
    flipped = {v.property for v in every_mode.verdicts if v.variant == "streamk" and v.unique > 1}
    if Property.CACHE_CONSISTENCY not in flipped:  # five pairs may all come out equal, where few threads meet
        cached = judged(one_rank(targets=TARGETS[:1], modes=["radix_cache"], trials=40))
        flipped |= {v.property for v in cached.verdicts if v.unique > 1}
    assert flipped == {Property.BATCH_INVARIANCE, Property.CACHE_CONSISTENCY, Property.PREFILL_VS_DECODE}
    assert {v.unique for v in every_mode.verdicts if v.variant == "invariant"} == {1}


def test_every_row_of_every_batch_is_a_sample(every_mode: Judgement) -> None:
    totals: dict[Any, int] = {}
    for verdict in every_mode.verdicts:
        if verdict.variant == "invariant":
            mode = verdict.subject.mode  # type: ignore[union-attr]
            totals[mode] = totals.get(mode, 0) + verdict.total
    whole = 1 + 2 + 3 + 4 + 5
    assert totals == {
        Mode.SINGLE: whole,
        Mode.MIXED: whole,
        Mode.PREFIX: whole,
        Mode.RADIX_CACHE: 2 * 5,
        Mode.P_VS_D: 2 * whole,
        Mode.NEIGHBOUR: 5,
    }


def test_a_flip_leaves_a_witness_and_its_place_in_the_batch(every_mode: Judgement) -> None:
    parted = [v for v in every_mode.verdicts if v.outcome is Outcome.NONDETERMINISTIC]
    assert parted and all(verdict.witness is not None for verdict in parted)
    assert parted[0].witness is not None
    assert parted[0].witness.second.conditions.startswith("row ")


def test_how_fast_it_generated_is_told_for_each_target_and_mode(every_mode: Judgement) -> None:
    assert len(every_mode.throughputs) == 2 * len(Mode)
    single = next(one for one in every_mode.throughputs if one.mode is Mode.SINGLE)
    assert (single.prompt_tokens, single.new_tokens) == (3 * 51, 3 * 6)  # the third batch of five
    assert single.tokens_per_second == single.new_tokens / single.seconds > 0


def test_a_unit_run_again_gives_the_same_answers_and_sends_nothing_that_is_known() -> None:
    job = one_rank()
    ((unit, first),) = ran(job, "invariant")
    (group,) = unit.groups
    (sample,) = first.samples[group].values()
    tokens, logprobs = decode(sample)
    assert len(tokens) == 4 and (logprobs <= 0).all()
    runner = ModelRunner(job, job.target("invariant"), 0, torch.device("cpu"))
    again = runner.run(unit, 2, {group: frozenset(first.samples[group])})
    assert again.samples == {group: {}}
    assert [cell.tallies[0][1] for cell in again.result.cells] == list(first.samples[group])


def test_row_0_of_single_is_counted_apart_for_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    job = one_rank(compat="sglang", trials=4)
    monkeypatch.setattr("workers.drawing._sglang_prompts", lambda: own_prompts(1))
    ((_, outputs),) = ran(job, "invariant")
    totals = {str(cell.subject): sum(tally[2] for tally in cell.tallies) for cell in outputs.result.cells}
    assert totals == {"single: prompt 1": 10, f"single: {FIRST_ROW}": 4}


def test_what_was_drawn_comes_along() -> None:
    ((_, outputs),) = ran(one_rank(modes=["mixed"]), "invariant")
    assert outputs.batches is not None
    assert [len(batch["rows"]) for batch in json.loads(outputs.batches)] == [1, 2, 3]


def test_specs_and_workers_know_the_same_names() -> None:
    assert {*get_args(RandomModel.model_fields["preset"].annotation)} == {*PRESETS}
    assert {*CollectiveName} == {*COLLECTIVES}


def test_a_gemm_that_can_not_run_here_says_why() -> None:
    job = one_rank(targets=[{"name": "deep", "gemm": "deep-gemm"}])
    ((_, outputs),) = ran(job, "deep")
    assert "Hopper" in str(outputs.result.unsupported) and outputs.result.cells == []
    assert judged(job).verdicts[0].outcome is Outcome.UNSUPPORTED


def test_a_prefix_longer_than_the_long_prompt_is_the_users_to_mend() -> None:
    with pytest.raises(UsageError, match=r"prefix_lengths has 1000000; the long prompt has 1 to"):
        ran(one_rank(modes=["prefix"], prefix_lengths=[1_000_000]), "invariant")


# Its split of K depends on the rows: two prompts of 400 tokens in a step make it another one, every time.
ORDERED = {"name": "ordered", "gemm": "streamk-ordered", "collective": "ordered", "deterministic": True}
LONG: dict[str, Any] = {"prefix_lengths": [400], "long_prompt_tokens": 400, "pages": 256}


@pytest.fixture(scope="module")
def traced() -> dict[str, list[tuple[ModelUnit, Outputs]]]:
    job = one_rank(targets=[*TARGETS, ORDERED], modes=["prefix", "p_vs_d"], trials=2, trace=True, **LONG)
    return {target.name: ran(job, target.name) for target in job.targets}


def test_a_group_that_flips_is_traced_to_the_operation(traced: dict[str, list[tuple[ModelUnit, Outputs]]]) -> None:
    (unit, outputs), _ = traced["ordered"]
    (found,) = outputs.result.divergences
    assert (found.variant, found.subject, found.property) == ("ordered", *unit.groups[0][1:2], unit.groups[0].property)
    assert (found.op, found.layer) == ("layers.0.self_attn.qkv_a_proj", 0)
    assert (found.kind, found.implementation) == ("fp8_gemm", "farm:streamk-ordered")
    assert found.gemm_shapes == ((400, 320, 1024), (800, 320, 1024)) and found.trials == (1, 2)
    assert found.inputs_equal and found.weights_equal
    assert found.row is not None and found.row.elements == 320 and found.row.differing and found.row.max_ulp
    assert list(outputs.artefacts) == [found.artefact]
    assert all(not outputs.result.divergences for _, outputs in traced["invariant"])


def test_what_really_ran_is_told_once_for_each_mode(traced: dict[str, list[tuple[ModelUnit, Outputs]]]) -> None:
    for target, gemm in (("streamk", "farm:streamk"), ("invariant", "farm:invariant")):
        for _, outputs in traced[target]:
            kinds = {(one.kind, one.implementation) for one in outputs.result.coverage}
            assert ("fp8_gemm", gemm) in kinds and not any(one.outside for one in outputs.result.coverage)
    outside = {one.implementation for _, each in traced["ordered"] for one in each.result.coverage if one.outside}
    assert outside == {"farm:streamk-ordered"}


def test_a_group_that_other_units_have_shown_to_flip_is_not_traced_again() -> None:
    job = one_rank(trace=True)
    runner = ModelRunner(job, job.target("streamk"), 0, torch.device("cpu"))
    plan = make_plan(job, Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0))
    unit = plan.units[0]
    assert isinstance(unit, ModelUnit)
    known = {unit.groups[0]: frozenset({"ab" * 16, "cd" * 16})}
    assert runner.run(unit, 1, known).result.divergences == []

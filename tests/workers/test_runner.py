from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.judge import judge
from orchestrator.plan import make_plan
from specs.device import Device
from specs.errors import UsageError
from specs.job import STRESS_ON, Dtype, Property, Stress
from specs.result import Judgement, Outcome, UnitResult
from specs.shapes import Shape
from specs.uniqueness import UniquenessTable
from specs.unit import Capacity
from tests.orchestrator.builders import job, kernel_units, unit
from workers.fresh import run_fresh
from workers.runner import Runner

SMALL = Shape(4, 1024, 16)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(torch.device("cpu"))


def judged(runner: Runner, **changes: Any) -> Judgement:
    """A small job, all of it run here."""
    fields: dict[str, Any] = {"shapes": [[SMALL.m, SMALL.k, SMALL.n]], "trials": 12, "dtypes": ["fp32"], "gates": {}}
    capacity = Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0)
    plan = make_plan(job(**fields | changes), capacity)
    samples: dict[str, bytes] = {}
    results: list[UnitResult] = []
    for work in kernel_units(plan):
        outputs = runner.run(work, 1)
        results.append(outputs.result)
        for kept in outputs.samples.values():
            samples.update(kept)
    return judge(plan, results, [], samples.get)


def named(function: str, expect: str = "deterministic") -> dict[str, str]:
    return {"name": f"python:tests.targets:{function}", "expect": expect}


def test_an_unordered_reduction_is_caught_by_run_to_run(runner: Runner) -> None:
    verdicts = judged(runner, variants=[named("unordered"), named("right")]).verdicts
    assert [verdict.outcome for verdict in verdicts] == [Outcome.NONDETERMINISTIC, Outcome.INCONCLUSIVE]
    assert not verdicts[0].met
    assert verdicts[0].witness is not None and verdicts[0].witness.elements == SMALL.m * SMALL.n


def test_an_order_that_depends_on_m_is_caught_by_batch_invariance_alone(runner: Runner) -> None:
    variants = [named("by_m", "any"), named("unordered", "nondeterministic"), named("right")]
    verdicts = judged(
        runner, variants=variants, properties=["run_to_run", "batch_invariance"], trials=8, dtypes=["fp32"]
    ).verdicts
    found = {(v.variant.rsplit(":", 1)[1], v.property): v for v in verdicts}
    assert found["by_m", Property.RUN_TO_RUN].outcome is Outcome.DETERMINISTIC
    assert found["by_m", Property.BATCH_INVARIANCE].outcome is Outcome.NONDETERMINISTIC
    assert found["right", Property.BATCH_INVARIANCE].outcome is Outcome.DETERMINISTIC
    witness = found["by_m", Property.BATCH_INVARIANCE].witness
    assert witness is not None and witness.elements == SMALL.n


def test_an_inaccurate_kernel_fails_its_gate(runner: Runner) -> None:
    speeds = judged(runner, variants=[named("inaccurate"), named("right")], dtypes=["bf16"], gates={"accuracy": 1.1})
    gates = {speed.variant.rsplit(":", 1)[1]: speed.failed_gates for speed in speeds.speeds}
    assert gates["right"] == []
    assert "accuracy" in gates["inaccurate"][0]


@pytest.mark.parametrize("stress", STRESS_ON[Device.CPU])
def test_the_invariant_kernel_keeps_its_bits_under_every_stress(runner: Runner, stress: Stress) -> None:
    quiet = unit(0, shape=Shape(9, 2048, 24), trials=2)
    stressed = unit(1, shape=Shape(9, 2048, 24), trials=6, stress=stress)
    table = UniquenessTable()
    for work in (quiet, stressed):
        table.merge(UniquenessTable.from_records(runner.run(work, 1).result.cells))
    (cell,) = table.strata(quiet.group).values()
    assert (cell.trials, cell.total, cell.unique) == (8, 8, 1)


def test_the_observation_records_the_stress(runner: Runner) -> None:
    (record,) = runner.run(unit(3, shape=SMALL, trials=2, stress=Stress.RANDOM_PAUSES), 2).result.cells
    assert [tally[3][1:4] for tally in record.tallies] == [("random_pauses", 3, 2)]


def test_samples_that_the_farm_has_are_not_sent_again(runner: Runner) -> None:
    work = unit(0, shape=SMALL, trials=3, variant="python:tests.targets:unordered", dtype=Dtype.FP32)
    first = runner.run(work, 1).samples[work.group]
    assert len(first) == 2
    assert runner.run(work, 1, {work.group: frozenset(first)}).samples == {work.group: {}}
    steady = unit(0, shape=SMALL, trials=3)
    (digest,) = runner.run(steady, 1).samples[steady.group]
    assert runner.run(steady, 1, {steady.group: frozenset({digest})}).samples == {steady.group: {}}


def test_what_can_not_run_here_says_why(runner: Runner) -> None:
    result = runner.run(unit(0, variant="deep-gemm", shape=SMALL), 1).result
    assert "Hopper" in str(result.unsupported)
    assert result.cells == []


def test_a_function_that_is_not_there_is_the_users_to_mend(runner: Runner) -> None:
    with pytest.raises(UsageError, match=r"python:tests\.targets:nothing.*installed on every worker"):
        runner.run(unit(0, variant="python:tests.targets:nothing"), 1)


def test_fresh_processes_are_told_apart(runner: Runner) -> None:
    table = UniquenessTable()
    for index in range(2):
        work = unit(
            index,
            variant="python:tests.targets:by_process",
            shape=SMALL,
            dtype=Dtype.FP32,
            purpose=Property.CROSS_PROCESS,
            first_trial=2 * index,
            trials=2,
        )
        table.merge(UniquenessTable.from_records(run_fresh(work, 1, {}).result.cells))
    (cell,) = table.strata(work.group).values()
    assert (cell.total, cell.unique) == (4, 2)

"""What `compare` finds, and what it must not take for a change."""

from __future__ import annotations

import pytest

from orchestrator.compare import compare
from specs.errors import ExitCode
from specs.job import Property
from specs.result import Judgement, Outcome, RunRecord, Speed, Timing, Verdict
from tests.orchestrator import builders
from tests.orchestrator.builders import speed, verdict


def record(*verdicts: Verdict, speeds: tuple[Speed, ...] = ()) -> RunRecord:
    judgement = Judgement(verdicts=list(verdicts), speeds=list(speeds), errors=[], exit_code=ExitCode.MET)
    return builders.record(judgement)


def test_a_run_is_equal_to_itself() -> None:
    run = builders.record()
    found = compare(run, run)
    assert (found.spec, found.environment, found.verdicts, found.verdicts_equal) == ([], [], [], 7)
    assert [change.ratio for change in found.speeds] == [1.0] * 3
    assert not any(change.apart for change in found.speeds)


def test_the_spec_is_compared_leaf_by_leaf() -> None:
    first = builders.record(job=builders.job(trials=50))
    second = builders.record(
        job=builders.job(trials=60, shapes=[[128, 7168, 1536], "seed-pr"], gates={"accuracy": None})
    )
    found = {change.path: (change.first, change.second) for change in compare(first, second).spec}
    assert found["trials"] == ("50", "60")
    assert found["gates.accuracy"] == ("1.1", "None")
    assert found["shapes[1].set"] == (None, "seed-pr")
    assert not any(path.startswith(("shapes[0]", "variants")) for path in found)


def test_the_environments_of_a_run_count_together() -> None:
    two = [builders.environment(node=node, packages={"numpy": "2.4.6"}) for node in ("node-2", "node-1")]
    first, second = builders.record(environments=two), builders.record(environments=two[::-1])
    assert compare(first, second).environment == []
    newer = builders.record(environments=[two[0], builders.environment(packages={"numpy": "2.5.0"}, driver="580")])
    changes = {change.path: (change.first, change.second) for change in compare(first, newer).environment}
    assert changes == {"packages.numpy": ("2.4.6", "2.4.6, 2.5.0"), "driver": ("None", "580, None")}


def test_verdicts_that_changed_appeared_or_went_are_told() -> None:
    first = record(verdict("a"), verdict("b"), verdict("c", Outcome.NONDETERMINISTIC))
    second = record(
        verdict("a", Outcome.NONDETERMINISTIC), verdict("c", Outcome.NONDETERMINISTIC, unique=4), verdict("d")
    )
    found = compare(first, second)
    told = {
        change.variant: tuple(
            (side.outcome.value, side.unique) if side else None for side in (change.first, change.second)
        )
        for change in found.verdicts
    }
    assert told == {
        "a": (("deterministic", 1), ("nondeterministic", 3)),
        "b": (("deterministic", 1), None),
        "c": (("nondeterministic", 3), ("nondeterministic", 4)),
        "d": (None, ("deterministic", 1)),
    }
    assert found.verdicts_equal == 0


def test_another_driver_is_no_other_group() -> None:
    first = record(verdict(stratum="H100 / 570"), verdict(property=Property.BATCH_INVARIANCE, stratum="H100 / 570"))
    second = record(verdict(stratum="H100 / 580"), verdict(property=Property.BATCH_INVARIANCE, stratum="H100 / 580"))
    assert (compare(first, second).verdicts, compare(first, second).verdicts_equal) == ([], 2)


def test_of_several_strata_the_worst_is_compared() -> None:
    first = record(verdict(stratum="H100"), verdict(stratum="H200"))
    second = record(verdict(stratum="H100"), verdict(outcome=Outcome.NONDETERMINISTIC, stratum="H200"))
    (change,) = compare(first, second).verdicts
    assert change.second is not None and change.second.outcome is Outcome.NONDETERMINISTIC


@pytest.mark.parametrize(
    ("quartiles", "apart"), [((1.9, 2.2), True), ((1.0, 3.0), False), ((1.05, 2.2), False), ((0.1, 0.2), True)]
)
def test_times_lie_apart_where_their_quartiles_do(quartiles: tuple[float, float], apart: bool) -> None:
    first = speed(timing=Timing(launches=9, median=1.0, q1=0.9, q3=1.1))
    second = speed(timing=Timing(launches=9, median=2.0, q1=quartiles[0], q3=quartiles[1]))
    (change,) = compare(record(speeds=(first,)), record(speeds=(second,))).speeds
    assert (change.first_median, change.second_median, change.ratio, change.apart) == (1.0, 2.0, 2.0, apart)


def test_times_of_one_stratum_are_compared_with_their_like() -> None:
    first = record(speeds=(speed(median=1.0, stratum="H100"), speed(median=2.0, stratum="H200")))
    second = record(speeds=(speed(median=4.0, stratum="H200"), speed(median=9.0, stratum="B200"), speed("new", 1.0)))
    found = [(change.stratum, change.ratio) for change in compare(first, second).speeds]
    assert found == [("H200", 2.0)]
    alone = compare(
        record(speeds=(speed(median=1.0, stratum="H100"),)), record(speeds=(speed(median=3.0, stratum="x"),))
    )
    assert [(change.stratum, change.ratio) for change in alone.speeds] == [(None, 3.0)]


def test_a_run_without_a_judgement_has_nothing_to_compare() -> None:
    running = builders.record().model_copy(update={"judgement": None})
    found = compare(running, builders.record())
    assert found.speeds == [] and all(change.first is None for change in found.verdicts)

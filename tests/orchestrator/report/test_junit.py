"""JUnit: what a CI makes of each outcome, and XML that every parser takes."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from orchestrator.report.junit import render_junit
from specs.errors import ExitCode
from specs.job import Expectation
from specs.result import Judgement, Outcome, RunRecord, RunStatus, Verdict
from tests.orchestrator import builders
from tests.orchestrator.builders import verdict


def suite(record: RunRecord) -> ET.Element:
    found = ET.fromstring(render_junit(record)).find("testsuite")
    assert found is not None
    return found


def of(*verdicts: Verdict, errors: tuple[str, ...] = ()) -> RunRecord:
    return builders.record(
        Judgement(verdicts=list(verdicts), speeds=[], errors=list(errors), exit_code=ExitCode.MET), environments=[]
    )


@pytest.mark.parametrize(
    ("given", "tag"),
    [
        (verdict(), None),
        (verdict(outcome=Outcome.NONDETERMINISTIC), "failure"),
        (verdict(outcome=Outcome.NONDETERMINISTIC, expected=Expectation.NONDETERMINISTIC), None),
        (verdict(outcome=Outcome.NONDETERMINISTIC, expected=Expectation.ANY), None),
        (verdict(outcome=Outcome.INCONCLUSIVE, reason="r"), "failure"),
        (verdict(outcome=Outcome.INCONCLUSIVE, reason="r", expected=Expectation.NONDETERMINISTIC), "failure"),
        (verdict(outcome=Outcome.INCONCLUSIVE, reason="r", expected=Expectation.ANY), "skipped"),
        (verdict(outcome=Outcome.INCONCLUSIVE, reason="r", required=False), "skipped"),
        (verdict(outcome=Outcome.UNSUPPORTED, reason="r"), "skipped"),
        (verdict(outcome=Outcome.ERROR, reason="r"), "error"),
    ],
)
def test_an_outcome_is_what_it_means_to_a_ci(given: Verdict, tag: str | None) -> None:
    run, case = suite(of(given)).findall("testcase")
    assert [child.tag for child in run] == []
    assert [child.tag for child in case if child.tag != "system-out"] == ([tag] if tag else [])
    assert (case.get("classname"), case.get("name")) == (
        "nightly.invariant",
        f"128x7168x1536 bf16 run_to_run [{given.stratum}]",
    )


def test_a_failure_tells_what_was_expected_and_shows_the_witness() -> None:
    failure = suite(of(verdict(outcome=Outcome.NONDETERMINISTIC))).find("testcase/failure")
    assert failure is not None
    message = "expected deterministic, but it is nondeterministic (3 unique of 50 samples, 6 flips)"
    assert failure.get("message") == message
    assert "1202 of 196608 elements differ" in (failure.text or "")


def test_the_counts_of_the_suite_add_up() -> None:
    found = suite(builders.record())
    counted = {name: int(found.get(name, "")) for name in ("tests", "failures", "errors", "skipped")}
    # 1 run, 7 groups, 3 speeds; failed: a flip, an open question, a gate; errors: a group, units that were given up
    assert counted == {"tests": 11, "failures": 3, "errors": 2, "skipped": 1}
    assert found.get("time") == "83.000" and found.get("timestamp") == "2026-11-22T16:45:01"


def test_a_run_that_is_not_complete_is_never_green() -> None:
    record = builders.record().model_copy(
        update={"judgement": None, "status": RunStatus.INTERRUPTED, "exit_code": ExitCode.INTERRUPTED}
    )
    error = suite(record).find("testcase/error")
    assert error is not None and "farm resume 20261122-164501-a1b2" in (error.get("message") or "")


def test_units_that_were_given_up_are_an_error_even_without_a_verdict() -> None:
    error = suite(of(errors=("unit 3 (measure): it died",))).find("testcase/error")
    assert error is not None and error.text == "unit 3 (measure): it died"


def test_any_string_gives_valid_xml() -> None:
    hostile = "]]> <&\"' \0 \x1b[31m \x0b \ufffe \ud800 \U0001f525 \r\n\t"
    record = of(verdict("python:a.b:c", Outcome.ERROR, reason=hostile, stratum=hostile), errors=(hostile,))
    text = render_junit(record)
    text.encode()
    error = ET.fromstring(text).findall(".//error")[1]
    assert error.get("message", "").startswith("]]> <&\"' \\x00 \\x1b[31m \\x0b \\xfffe \\xd800 \U0001f525")

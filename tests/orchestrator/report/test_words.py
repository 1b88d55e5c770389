"""The wording that all reports share."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.report import words
from specs.errors import ExitCode
from specs.job import Dtype, Expectation, Property
from specs.result import Judgement, Outcome, RunStatus, Verdict
from tests.orchestrator import builders
from tests.orchestrator.builders import verdict


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (verdict(), "deterministic (0 flips in 50 trials, 95 % bound 5.8 %)"),
        (verdict(trials=1000, bound=0.0029912), "deterministic (0 flips in 1000 trials, 95 % bound 0.30 %)"),
        (verdict(outcome=Outcome.NONDETERMINISTIC), "nondeterministic (3 unique of 50 samples, 6 flips)"),
        (
            verdict(outcome=Outcome.NONDETERMINISTIC, flips=1, unique=2),
            "nondeterministic (2 unique of 50 samples, 1 flip)",
        ),
        (
            verdict(outcome=Outcome.INCONCLUSIVE, trials=1, bound=0.95),
            "inconclusive (0 flips in 1 trial, 95 % bound 95 %)",
        ),
        (verdict(outcome=Outcome.INCONCLUSIVE, trials=0, bound=None), "inconclusive"),
        (verdict(outcome=Outcome.UNSUPPORTED), "unsupported"),
        (verdict(outcome=Outcome.ERROR), "error"),
    ],
)
def test_a_verdict_has_its_numbers(given: Verdict, expected: str) -> None:
    assert words.verdict_words(given) == expected


@pytest.mark.parametrize(
    ("bound", "expected"),
    [(None, ""), (1.0, "100 %"), (0.0998, "10 %"), (0.0992, "9.9 %"), (0.0582, "5.8 %"), (0.0023, "0.23 %")],
)
def test_a_bound_has_two_significant_digits(bound: float | None, expected: str) -> None:
    assert words.bound_words(bound) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.234e-6, "1.23 us"),
        (999.4e-6, "999 us"),
        (999.6e-6, "1.00 ms"),
        (0.0456, "45.6 ms"),
        (0.9999, "1.00 s"),
        (83.24, "83.2 s"),
        (1234.5, "1234 s"),
        (math.nan, "nan s"),
    ],
)
def test_a_time_has_a_unit_that_fits(seconds: float, expected: str) -> None:
    assert words.seconds_words(seconds) == expected


def test_a_witness_says_where_and_by_how_much() -> None:
    flipped = verdict(outcome=Outcome.NONDETERMINISTIC)
    assert words.witness_words(flipped) == (
        "1202 of 196608 elements differ, at most 2 ULP apart; the first is element 42, at (0, 42): "
        "1.0625 (0x3f88) in trial 0 (quiet, node-1 cpu 0), "
        "1.0703125 (0x3f89) in trial 3 (competing_threads, node-1 cpu 0)"
    )
    row = flipped.model_copy(
        update={"property": Property.BATCH_INVARIANCE, "witness": builders.witness(item=17, max_ulp=None)}
    )
    assert (words.witness_words(row) or "").startswith("row 17: 1202 of 196608 elements differ, a NaN is among them")
    lost = flipped.model_copy(update={"witness": None})
    assert "seen in trial 3 (competing_threads, node-1 cpu 0); its bytes were not kept" in (
        words.witness_words(lost) or ""
    )
    assert words.witness_words(verdict()) is None


def test_notes_come_the_worst_first_and_leave_out_good_news() -> None:
    notes = words.notes(builders.record())
    assert [(note.heading, note.groups[0].split()[0]) for note in notes] == [
        ("failed", "persistent"),
        ("gate failed", "persistent"),
        ("error", "torch-scaled-mm"),
        ("inconclusive", "persistent"),
        ("unsupported", "deep-gemm"),
        ("control flipped", "streamk"),
    ]


def test_groups_with_one_reason_share_a_note() -> None:
    reason = "no control flipped under the same conditions: streamk (50 trials)"
    verdicts = [verdict(f"v{number}", Outcome.INCONCLUSIVE, reason=reason) for number in range(9)]
    judgement = Judgement(verdicts=verdicts, speeds=[], errors=[], exit_code=ExitCode.INCONCLUSIVE)
    (note,) = words.notes(builders.record(judgement))
    assert len(note.groups) == 9
    assert note.where.count("run_to_run") == 6 and note.where.endswith(" and 3 more")


def test_of_flips_that_were_expected_one_witness_is_enough() -> None:
    flip: dict[str, Any] = {"outcome": Outcome.NONDETERMINISTIC, "expected": Expectation.NONDETERMINISTIC}
    verdicts = [verdict(name, unique=unique, **flip) for name in ("streamk", "other") for unique in (2, 3)]
    failed = [verdict("bad", Outcome.NONDETERMINISTIC, unique=unique) for unique in (2, 3)]
    judgement = Judgement(verdicts=verdicts + failed, speeds=[], errors=[], exit_code=ExitCode.FAILED)
    notes = words.notes(builders.record(judgement))
    assert [(note.heading, len(note.groups)) for note in notes] == [
        ("failed", 1),
        ("failed", 1),
        ("control flipped", 2),
        ("control flipped", 2),
    ]
    assert notes[2].text.startswith(
        "streamk 128x7168x1536 bf16 run_to_run is nondeterministic (2 unique of 50 samples, 6 flips): 1202 of 196608"
    )


@pytest.mark.parametrize(
    ("changes", "heading"),
    [
        ({}, "inconclusive"),
        ({"required": False}, "inconclusive, not required"),
        ({"expected": Expectation.ANY}, "inconclusive, not required"),
    ],
)
def test_only_what_the_spec_wanted_to_know_is_open(changes: dict[str, Any], heading: str) -> None:
    one = verdict(outcome=Outcome.INCONCLUSIVE, reason="?", **changes)
    judgement = Judgement(verdicts=[one], speeds=[], errors=[], exit_code=ExitCode.MET)
    assert [note.heading for note in words.notes(builders.record(judgement))] == [heading]


def test_lines_stand_by_variant_then_shape_with_the_speed_of_their_stratum() -> None:
    interleaved = [
        verdict("b", stratum="H100"),
        verdict("a", stratum="H100"),
        verdict("b", dtype=Dtype.FP16),
        verdict("b", stratum="H200", property=Property.BATCH_INVARIANCE),
    ]
    speeds = [builders.speed("b", 1.0, stratum="H100"), builders.speed("b", 2.0, stratum="H200")]
    judgement = Judgement(verdicts=interleaved, speeds=speeds, errors=[], exit_code=ExitCode.MET)
    record = builders.record(judgement)
    found = [(line.target, line.speed and line.speed.timing.median) for line in words.lines(record)]
    assert found == [
        ("b 128x7168x1536 bf16", 1.0),
        ("b 128x7168x1536 bf16", 2.0),
        ("b 128x7168x1536 fp16", None),
        ("a 128x7168x1536 bf16", None),
    ]
    assert words.several_strata(record)
    assert not words.several_strata(builders.record())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exit_code": ExitCode.MET}, "exit 0: all expectations were met"),
        ({"exit_code": None, "status": RunStatus.RUNNING}, "still running"),
        (
            {"exit_code": ExitCode.INTERRUPTED, "status": RunStatus.INTERRUPTED},
            "exit 130: interrupted. Go on with farm resume 20261122-164501-a1b2",
        ),
        (
            {"exit_code": ExitCode.INFRASTRUCTURE, "status": RunStatus.FAILED, "error": "the disk is full"},
            "exit 4: infrastructure error: the farm could not find out: the disk is full. "
            "Go on with farm resume 20261122-164501-a1b2",
        ),
    ],
)
def test_the_exit_code_is_explained(changes: dict[str, Any], expected: str) -> None:
    assert words.exit_words(builders.record(**changes)) == expected


def test_every_exit_code_has_words() -> None:
    assert set(words.EXIT_WORDS) == set(ExitCode)


def test_an_environment_is_one_line() -> None:
    gpu = builders.environment(device="NVIDIA H200", driver="580.159", cuda="13.0", nccl="2.28.9", visible_devices="")
    assert words.environment_words(gpu) == (
        "node-1: NVIDIA H200 on Some CPU @ 2 GHz, driver 580.159, CUDA 13.0, NCCL 2.28.9, torch 2.13.0, Ray 2.60.0, "
        "Python 3.11.2, kernels 0123456789ab, commit 788d7df, visible devices none"
    )

"""The terminal table, at the widths that people have."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from orchestrator.report.table import render_table
from specs.errors import ExitCode
from specs.result import Judgement, Outcome, RunRecord, RunStatus
from tests.orchestrator import builders
from tests.orchestrator.builders import verdict


def render(record: RunRecord, width: int = 200) -> str:
    out = io.StringIO()
    render_table(record, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def row(text: str, *cells: str) -> re.Match[str] | None:
    return re.search(r"^ " + r"\s{2,}".join(map(re.escape, cells)) + r"\s*$", text, re.MULTILINE)


def test_a_row_has_everything_of_its_group() -> None:
    text = render(builders.record())
    target = ("invariant", "128x7168x1536", "bf16")
    times = ("1.20 ms (1.14 ms to 1.32 ms)", "1.20 x", "1.67e-03")
    assert row(text, *target, "run_to_run", "50", "1", "0", "deterministic", "5.8 %", *times)
    streamk = ("streamk", "128x7168x1536", "bf16", "run_to_run", "50", "7", "31", "nondeterministic")
    assert row(text, *streamk, "1.00 ms (950 us to 1.10 ms)", "1.67e-03")


def test_after_the_table_come_reasons_witnesses_environment_and_exit() -> None:
    text = render(builders.record())
    places = [
        text.index(part)
        for part in (
            "failed: persistent 128x7168x1536 bf16 run_to_run",
            "1202 of 196608 elements differ",
            "inconclusive: persistent 64x256x128 bf16 run_to_run",
            "no control flipped under the same conditions: streamk (50 trials)",
            "unsupported: deep-gemm",
            "gave up: unit 6",
            "node-1: Some CPU @ 2 GHz, torch 2.13.0",
            "run 20261122-164501-a1b2 (nightly): complete after 83 s, 12 of 12 units",
            "exit 1: an expectation failed",
        )
    ]
    assert places == sorted(places)


def test_80_columns_are_enough_and_no_number_is_folded() -> None:
    text = render(builders.record(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("batch_invariance", "nondeterministic", "12800", "bound 5.8 %", "1.20 ms (1.14 ms to 1.32 ms)"):
        assert whole in text


@pytest.mark.parametrize("width", [80, 200])
def test_strata_are_named_where_there_are_several(width: int) -> None:
    verdicts = [verdict(stratum="H100 / 580"), verdict(stratum="H200 / 580"), verdict("x", Outcome.ERROR)]
    judgement = Judgement(verdicts=verdicts, speeds=[], errors=[], exit_code=ExitCode.MET)
    text = render(builders.record(judgement, environments=[]), width)
    assert "H100 / 580" in text and "H200 / 580" in text
    alone = Judgement(verdicts=verdicts[:1], speeds=[], errors=[], exit_code=ExitCode.MET)
    assert "H100 / 580" not in render(builders.record(alone, environments=[]), width)


def test_neither_markup_nor_control_characters_have_an_effect() -> None:
    reason = "[bold]not[/bold] [/nothing] \x1b[31m \udcff"
    judgement = Judgement(
        verdicts=[verdict("python:a.b:c", Outcome.ERROR, reason=reason)],
        speeds=[],
        errors=["[red]unit[/]"],
        exit_code=ExitCode.INFRASTRUCTURE,
    )
    text = render(builders.record(judgement))
    assert "[bold]not[/bold] [/nothing]" in text and "[red]unit[/]" in text
    assert "\\x1b[31m \\xdcff" in text and "\x1b" not in text


def test_a_run_without_a_judgement_has_no_table() -> None:
    text = render(builders.record(judgement=None).model_copy(update={"judgement": None, "status": RunStatus.RUNNING}))
    assert "variant" not in text and "run 20261122-164501-a1b2 (nightly): running" in text


def test_many_errors_are_cut() -> None:
    judgement = Judgement(
        verdicts=[], speeds=[], errors=[f"unit {n}: it died" for n in range(200)], exit_code=ExitCode.INFRASTRUCTURE
    )
    text = render(builders.record(judgement))
    assert text.count("gave up") == 10 and "and 190 more units: see farm show 20261122-164501-a1b2 --json" in text

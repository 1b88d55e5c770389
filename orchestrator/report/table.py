"""The table on the terminal: what the seed prints, and what is needed to trust it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.report.sglang import sglang_lines
from orchestrator.report.words import (
    Columns,
    Line,
    bound_words,
    columns,
    environment_words,
    exit_words,
    is_open,
    lines,
    notes,
    run_words,
    several_strata,
)
from specs.errors import ExitCode
from specs.result import Outcome, RunRecord, Verdict

WIDE = 150
"""Columns from which on everything of a group stands in one row."""
_ERRORS_AT_MOST = 10
_COUNTED = (">total", ">unique", ">flips")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render_table(record: RunRecord, console: Console) -> None:
    """Print a run on `console`: its groups, then the reasons, the environments, and what the exit code means."""
    found = lines(record)
    if found:
        if console.width >= WIDE:
            console.print(_wide(found, columns(record), several_strata(record)))
        else:
            console.print(_verdicts(found, several_strata(record)))
            console.print(_speeds(found, columns(record), several_strata(record)))
    for target, printed in sglang_lines(record).items():
        console.print(Text(f"{target}, as SGLang's test_deterministic prints it", style="dim"))
        console.print(Padding(Text("\n".join(printed)), (0, 0, 0, 2), expand=False))
    for note in notes(record):
        console.print(Text.assemble((note.heading, _note_style(note.heading)), ": ", _safe(note.where)))
        console.print(Padding(Text(_safe(note.text)), (0, 0, 0, 2), expand=False))
    errors = record.judgement.errors if record.judgement else []
    for error in errors[:_ERRORS_AT_MOST]:
        console.print(Text.assemble(("gave up", "red"), ": ", _safe(error)))
    if len(errors) > _ERRORS_AT_MOST:
        console.print(Text(f"and {len(errors) - _ERRORS_AT_MOST} more units: see farm show {record.id} --json"))
    for environment in record.environments:
        console.print(Text(_safe(environment_words(environment)), style="dim"))
    console.print(Text(run_words(record)))
    console.print(Text(_safe(exit_words(record)), style=_exit_style(record.exit_code)))


def _wide(found: list[Line], headings: Columns, several: bool) -> Table:
    table = _table(headings.variant, headings.subject, "dtype", "property", *_COUNTED, "verdict", ">bound")
    for heading in (*_to_the_right(headings.measured), *(["stratum"] if several else [])):
        _add_column(table, heading)
    shown, measured = None, None
    for line in found:
        verdict, first = line.verdict, (line.target, line.verdict.stratum) != shown
        shown = line.target, verdict.stratum
        figures = line.measured if line.measured_of != measured else [""] * len(headings.measured)
        measured = line.measured_of
        target = (verdict.variant, str(verdict.subject), verdict.dtype) if first else ("", "", "")
        table.add_row(
            *map(Text, (*target, verdict.property, *_numbers(verdict))),
            _outcome(verdict),
            bound_words(verdict.bound),
            *figures,
            *([Text(verdict.stratum)] if several else []),
        )
    return table


def _verdicts(found: list[Line], several: bool) -> Table:
    table = _table("target", "property", *_COUNTED, "verdict")
    for line in found:
        outcome = _outcome(line.verdict)
        if line.verdict.bound is not None:
            outcome.append(f"\nbound {bound_words(line.verdict.bound)}")
        table.add_row(_target(line, several), line.verdict.property, *_numbers(line.verdict), outcome)
    return table


def _speeds(found: list[Line], headings: Columns, several: bool) -> Table:
    table = _table("target", *_to_the_right(headings.measured))
    measured = {line.measured_of: line for line in found if any(line.measured)}
    for line in measured.values():
        table.add_row(_target(line, several), *line.measured)
    return table


def _to_the_right(headings: Sequence[str]) -> list[str]:
    return [heading if heading.startswith("time") else f">{heading}" for heading in headings]


def _target(line: Line, several: bool) -> Text:
    verdict = line.verdict
    text = Text(f"{verdict.variant}\n{verdict.subject} {verdict.dtype}")
    return text.append(f"\n{verdict.stratum}") if several else text


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        _add_column(table, heading)
    return table


def _add_column(table: Table, heading: str) -> None:
    """A heading that begins with > is of numbers, which stand to the right."""
    right = heading.startswith(">")
    table.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")


def _numbers(verdict: Verdict) -> tuple[str, str, str]:
    return str(verdict.total), str(verdict.unique), str(verdict.flips)


def _outcome(verdict: Verdict) -> Text:
    if not verdict.met or verdict.outcome is Outcome.ERROR:
        style = "bold red"
    elif verdict.outcome is Outcome.DETERMINISTIC:
        style = "green"
    else:
        style = "yellow" if is_open(verdict) else ""
    return Text(verdict.outcome, style=style)


def _note_style(heading: str) -> str:
    if heading in ("failed", "gate failed", "error"):
        return "bold red"
    return "yellow" if heading in ("inconclusive", "outside the deterministic set") else "bold"


def _exit_style(code: ExitCode | None) -> str:
    return "green" if code is ExitCode.MET else "yellow" if code in (None, ExitCode.INCONCLUSIVE) else "bold red"


def _safe(text: str) -> str:
    """Without the control characters by which a log could repaint the terminal; they are spelled out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)

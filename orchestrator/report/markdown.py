"""Markdown as GitHub shows it: in a pull request, and as the summary of a step, which may have 1 MiB."""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.report.parting import coverage_lines
from orchestrator.report.sglang import sglang_lines
from orchestrator.report.words import (
    Line,
    bound_words,
    columns,
    counts,
    environment_words,
    exit_words,
    is_open,
    lines,
    notes,
    run_words,
)
from specs.errors import ExitCode
from specs.result import Outcome, RunRecord, Verdict

LIMIT = 1_000_000
"""Bytes. A summary over 1 MiB is not cut but lost."""
_CELL = 500
_SIGNS = {
    Outcome.DETERMINISTIC: "✅",
    Outcome.NONDETERMINISTIC: "🔀",
    Outcome.INCONCLUSIVE: "❔",
    Outcome.UNSUPPORTED: "⏭️",
    Outcome.ERROR: "⚠️",
}
_RIGHT = {"total", "unique", "flips", "bound", "tokens/s", "cost", "rel. error"}


def render_markdown(record: RunRecord) -> str:
    """The run in Markdown, under 1 MiB: of a larger one the worst rows and notes, and how many were left out."""
    sign = "✅" if record.exit_code is ExitCode.MET else "❔" if record.exit_code is ExitCode.INCONCLUSIVE else "❌"
    tally = ", ".join(f"{count} {outcome}" for outcome, count in counts(record).items())
    head = [f"## {sign} {_plain(record.name)}: {_plain(exit_words(record))}", "", _plain(run_words(record))]
    if tally:
        head += ["", f"Verdicts: {tally}"]
    environments = [f"- {_plain(environment_words(environment))}" for environment in record.environments]
    foot = ["", "<details><summary>Where it ran</summary>", "", *environments[:200], "", "</details>", ""]

    for target, printed in sglang_lines(record).items():
        title = f"{_plain(target)}, as SGLang's test_deterministic prints it"
        foot += [f"<details><summary>{title}</summary>", "", "```", *printed, "```", "", "</details>", ""]

    ran = coverage_lines(record.judgement.coverage if record.judgement else [])
    for target, told in ran.items():
        items = [f"- {_plain(line)}" for line in told]
        foot += [f"<details><summary>What ran in {_plain(target)}</summary>", "", *items, "", "</details>", ""]

    budget = LIMIT - _size(head) - _size(foot)
    table = _fitted(_rows(record), budget * 2 // 3, "rows")
    remarks = _fitted(_remarks(record), budget - _size(table), "notes")
    return "\n".join([*head, *table, "", *remarks, *foot])


def _rows(record: RunRecord) -> list[str]:
    found = lines(record)
    if not found:
        return []
    headings = columns(record)
    named = (headings.variant, headings.subject, "dtype", "property", "total", "unique", "flips", "verdict", "bound")
    shown = (*named, *headings.measured, "stratum")
    rule = "|".join("---:" if column in _RIGHT else "---" for column in shown)
    heading = ["", f"| {' | '.join(shown)} |", f"|{rule}|"]
    rows = [_row(line) for line in found]
    if _size(rows) > LIMIT // 2:  # not all will fit: the worst first
        rows = [_row(line) for line in sorted(found, key=lambda line: _severity(line.verdict))]
    return [*heading, *rows]


def _row(line: Line) -> str:
    verdict = line.verdict
    mark = f"{_SIGNS[verdict.outcome]} {verdict.outcome}"
    cells = [
        verdict.variant,
        str(verdict.subject),
        verdict.dtype,
        verdict.property,
        *map(str, (verdict.total, verdict.unique, verdict.flips)),
        mark if verdict.met else f"❌ {verdict.outcome}",
        bound_words(verdict.bound),
        *line.measured,
        verdict.stratum,
    ]
    return f"| {' | '.join(map(_plain, cells))} |"


def _severity(verdict: Verdict) -> int:
    order = (not verdict.met, verdict.outcome is Outcome.ERROR, is_open(verdict))
    return order.index(True) if True in order else len(order)


def _remarks(record: RunRecord) -> list[str]:
    found = [f"- **{note.heading}**: {_plain(note.where)}: {_plain(note.text)}" for note in notes(record)]
    errors = record.judgement.errors if record.judgement else []
    return [*found, *(f"- **gave up**: {_plain(error)}" for error in errors)]


def _fitted(rows: list[str], budget: int, what: str) -> list[str]:
    kept: list[str] = []
    size = 200  # room for the last line
    for row in rows:
        size += len(row.encode()) + 1
        if size > budget:
            return [*kept, "", f"… and {len(rows) - len(kept)} more {what}: see the HTML or JSON report."]
        kept.append(row)
    return kept


def _size(rows: Iterable[str]) -> int:
    return sum(len(row.encode()) + 1 for row in rows)


def _plain(text: str) -> str:
    """On one line, without a meaning in Markdown or HTML, and not endless."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    cut = line if len(line) <= _CELL else f"{line[: _CELL - 1]}…"
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", cut)

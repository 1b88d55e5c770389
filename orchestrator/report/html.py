"""The report as one HTML file: no scripts, nothing fetched, readable by day and by night."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.resources import files

from jinja2 import Environment as Templates
from jinja2 import StrictUndefined, Template

from orchestrator.report import words
from orchestrator.report.parting import coverage_lines
from orchestrator.report.plots import heat_map, kind, times, unique_bars
from orchestrator.report.sglang import sglang_lines
from specs.errors import ExitCode
from specs.result import RunRecord

_LEGEND = {
    "deterministic": "deterministic (0)",
    "nondeterministic": "nondeterministic, against what was expected (% of samples)",
    "allowed": "nondeterministic, as expected or allowed (% of samples)",
    "inconclusive": "inconclusive (?)",
    "unsupported": "unsupported (\N{EN DASH})",
    "error": "error (!)",
}
"""What a colour, and the mark in the heat map, mean."""


def render_html(record: RunRecord) -> str:
    """The whole report. Write it as UTF-8."""
    found = words.lines(record)
    tone = {ExitCode.MET: "good", ExitCode.INCONCLUSIVE: "open", None: "open"}
    page = _template().render(
        record=record,
        words=words,
        kind=kind,
        legend=_LEGEND,
        tone=tone.get(record.exit_code, "bad"),
        lines=found,
        columns=words.columns(record),
        sglang=sglang_lines(record),
        several=words.several_strata(record),
        tally=Counter(kind(line.verdict) for line in found),
        notes=words.notes(record),
        ran=coverage_lines(record.judgement.coverage if record.judgement else []),
        errors=record.judgement.errors if record.judgement else [],
        heat_map=heat_map(found),
        unique_bars=unique_bars(found),
        times=times(found),
        job=record.job.model_dump_json(indent=2),
    )
    # What no encoding can hold (a lone surrogate out of an undecodable log) is spelled out.
    return page.encode("utf-8", "backslashreplace").decode()


@cache
def _template() -> Template:
    source = files("orchestrator.report").joinpath("template.html").read_text(encoding="utf-8")
    templates = Templates(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return templates.from_string(source)

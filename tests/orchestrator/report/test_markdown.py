"""Markdown: GitHub renders it, and throws it away over 1 MiB."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

from orchestrator.report.markdown import render_markdown
from specs.errors import ExitCode
from specs.job import Expectation
from specs.result import Judgement, Outcome
from tests.orchestrator import builders
from tests.orchestrator.builders import verdict


def rendered(text: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def test_it_says_what_happened_and_why() -> None:
    html = rendered(render_markdown(builders.record()))
    assert html.startswith("<h2>❌ nightly: exit 1: an expectation failed</h2>")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells[13:20] == ["invariant", "128x7168x1536", "bf16", "run_to_run", "50", "1", "0"]
    assert cells[20:25] == ["✅ deterministic", "5.8 %", "1.20 ms (1.14 ms to 1.32 ms)", "1.20 x", "1.67e-03"]
    assert "❌ nondeterministic" in cells and "🔀 nondeterministic" in cells  # one not expected, one the control
    assert "<strong>inconclusive</strong>: persistent 64x256x128 bf16 run_to_run: no control flipped" in html
    assert "<li>node-1: Some CPU @ 2 GHz" in html


def test_strings_stay_strings() -> None:
    hostile = "<script>alert(1)</script> | `x` [a](http://b) **c** \n# d \\| \udcff"
    judgement = Judgement(
        verdicts=[verdict("python:a.b:c|d", Outcome.ERROR, reason=hostile)],
        speeds=[],
        errors=[hostile],
        exit_code=ExitCode.INFRASTRUCTURE,
    )
    text = render_markdown(builders.record(judgement))
    html = rendered(text)
    assert "<script" not in html and "<a " not in html and "<code>" not in html and "<h1>" not in html
    assert html.count("<tr>") == 2 and html.count("<td") == 13  # the | of the name and the reason made no cell
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | `x` [a](http://b) **c** # d \\| \\udcff" in html
    text.encode()


def test_a_huge_run_stays_under_the_limit_and_shows_the_worst() -> None:
    good = [verdict(f"python:package.module:function{n}", reason="x" * 200) for n in range(20_000)]
    bad = [verdict("culprit", Outcome.NONDETERMINISTIC), verdict("open", Outcome.INCONCLUSIVE, reason="why " * 90)]
    errors = [f"unit {n}: " + "ü" * 600 for n in range(5000)]
    judgement = Judgement(verdicts=[*good, *bad], speeds=[], errors=errors, exit_code=ExitCode.FAILED)
    text = render_markdown(builders.record(judgement))
    assert len(text.encode()) < 1 << 20
    assert "| culprit |" in text and "| open |" in text
    left_out = re.search(r"… and (\d+) more rows: see the HTML or JSON report", text)
    assert left_out and int(left_out[1]) + text.count("| python:package") == 20_000
    assert re.search(r"… and \d+ more notes", text)
    assert text.rstrip().endswith("</details>")


def test_the_sign_is_that_of_the_exit_code() -> None:
    for code, sign in ((ExitCode.MET, "✅"), (ExitCode.INCONCLUSIVE, "❔"), (ExitCode.INTERRUPTED, "❌")):
        assert render_markdown(builders.record(exit_code=code)).startswith(f"## {sign} nightly")


def test_a_flip_that_any_outcome_allows_is_no_failure() -> None:
    allowed = verdict(outcome=Outcome.NONDETERMINISTIC, expected=Expectation.ANY)
    judgement = Judgement(verdicts=[allowed], speeds=[], errors=[], exit_code=ExitCode.MET)
    assert "❌" not in render_markdown(builders.record(judgement))

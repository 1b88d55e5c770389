"""The HTML report: one file that fetches nothing, whatever names and reasons contain."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from orchestrator.report.html import render_html
from specs.errors import ExitCode
from specs.result import Judgement, Outcome, RunRecord, RunStatus
from tests.orchestrator import builders
from tests.orchestrator.builders import verdict

_VOID = {"meta", "rect", "line", "circle", "path", "br"}


class Page(HTMLParser):
    """Every element with its attributes; fails on tags that don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def count(self, tag: str, name: str | None = None) -> int:
        return sum(1 for found, attrs in self.elements if found == tag and (name is None or attrs.get("class") == name))


HOSTILE = "</title></pre></svg><script>alert(1)</script><img src=http://x/y onerror='z'> \" ' & \udcff {{ 7 * 7 }}"


def hostile_record() -> RunRecord:
    verdicts = [
        verdict("python:a.b:c<b>", Outcome.ERROR, reason=HOSTILE, stratum=HOSTILE),
        verdict("streamk", Outcome.NONDETERMINISTIC, stratum=HOSTILE),
    ]
    speeds = [builders.speed("streamk", stratum=HOSTILE)]
    judgement = Judgement(verdicts=verdicts, speeds=speeds, errors=[HOSTILE], exit_code=ExitCode.FAILED)
    environment = builders.environment(node=HOSTILE, variables={"NCCL_X": HOSTILE})
    job = builders.job(description="<script>x</script>")
    return builders.record(judgement, environments=[environment], error=HOSTILE, job=job)


@pytest.mark.parametrize("record", [builders.record(), hostile_record()], ids=["plain", "hostile"])
def test_it_is_one_file_that_fetches_nothing(record: RunRecord) -> None:
    html = render_html(record)
    html.encode()
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "object", "a"} & {tag for tag, _ in page.elements}
    names = {name for _, attrs in page.elements for name in attrs}
    assert not {"src", "href", "xlink:href", "style", "onerror"} & names
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in html


def test_hostile_strings_are_shown_as_they_are() -> None:
    page = Page(render_html(hostile_record()))
    assert any("<script>alert(1)</script><img src=http://x/y onerror='z'> \" ' &" in text for text in page.texts)
    assert any("{{ 7 * 7 }}" in text for text in page.texts)


def test_every_group_stands_in_each_plot_and_in_the_table() -> None:
    page = Page(render_html(builders.record()))
    assert page.count("svg") == 3
    # the heat map has 7 squares, the bars are of the 5 groups that have samples
    assert page.count("rect") == 7 + 5
    assert page.count("rect", "allowed") == 2  # the control
    assert page.count("rect", "nondeterministic") == 2
    assert page.count("circle") == 3
    assert page.count("tr") == 1 + 7
    for text in ("62 %", "12 %", "7 of 50", "deterministic (0 flips in 50 trials, 95 % bound 5.8 %)"):
        assert text in page.texts


def test_reasons_witnesses_environment_and_exit_are_told() -> None:
    text = render_html(builders.record())
    for part in ("exit 1: an expectation failed", "1202 of 196608 elements differ", "deep-gemm needs a Hopper GPU"):
        assert part in text
    assert "node-1: Some CPU @ 2 GHz" in text and "OMP_NUM_THREADS" in text and "fp8_blockwise_gemm" in text


def test_dark_and_light_have_the_same_colours_to_set() -> None:
    html = render_html(builders.record())
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    names = [set(re.findall(r"(--[\w-]+):", block)) for block in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) == names[0]


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.FAILED])
def test_a_run_without_a_judgement_has_a_page_too(status: RunStatus) -> None:
    record = builders.record().model_copy(
        update={"judgement": None, "environments": [], "status": status, "finished_at": None}
    )
    page = Page(render_html(record))
    assert page.count("svg") == 0 and "No unit has a result." in page.texts

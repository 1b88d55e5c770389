"""Reports of model runs: the words for targets and prompts, in every format."""

from __future__ import annotations

import io
import json
import re
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from orchestrator.cli.output import json_text
from orchestrator.report.document import run_document
from orchestrator.report.html import render_html
from orchestrator.report.junit import render_junit
from orchestrator.report.markdown import render_markdown
from orchestrator.report.table import render_table
from orchestrator.report.words import notes
from tests.orchestrator.builders import model_record


def table(width: int = 200) -> str:
    out = io.StringIO()
    render_table(model_record(), Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_the_table_is_of_targets_and_prompts_and_tells_the_speed_of_a_mode_once() -> None:
    text = table()
    assert re.search(r"target +prompt +dtype +property +total +unique +flips +verdict +bound +tokens/s +cost", text)
    first, second = (line for line in text.splitlines() if line.startswith(" invariant "))
    assert re.search(r"mixed: prompt 1 +bf16 +batch_invariance +50 +1 +0 +deterministic +5\.8 % +50 +1\.60 x", first)
    assert re.search(r"mixed: long prompt .* 5\.8 % *$", second)
    assert "shape" not in text and "rel. error" not in text


def test_sglangs_lines_follow_the_table() -> None:
    text = table()
    assert "streamk, as SGLang's test_deterministic prints it" in text
    assert "  Prompt 1: total samples: 50, Unique samples: 3" in text
    assert "  Long prompt: total samples: 50, Unique samples: 1" in text


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_has_the_same_figures(width: int) -> None:
    text = table(width)
    assert "tokens/s" in text and "1.60 x" in text
    assert max(map(len, text.splitlines())) <= width


def test_a_witness_tells_which_token_parted() -> None:
    (note,) = notes(model_record())
    assert note.heading == "control flipped"
    assert note.text.endswith(
        "5 of 16 new tokens or their logprobs differ; logprobs of equal tokens are at most 7 ULP apart; the first is "
        "token 11: token 237, logprob -2.5 (0xc0200000) in trial 1 (row 0 of 1, node-1 cpu 0), token 12, logprob -2.25 "
        "(0xc0100000) in trial 3 (row 2 of 3, node-1 cpu 0)"
    )


def test_markdown_has_the_same_columns_and_sglangs_lines() -> None:
    text = render_markdown(model_record())
    assert "| target | prompt | dtype | property | total | unique | flips | verdict | bound | tokens/s | cost |" in text
    assert "| invariant | mixed: prompt 1 | bf16 |" in text
    assert "```\nPrompt 1: total samples: 50, Unique samples: 3\n" in text


def test_html_shows_prompts_and_tokens_a_second() -> None:
    page = render_html(model_record())
    assert "<th>target</th><th>prompt</th>" in page and '<th class="number">tokens/s</th>' in page
    assert '<td class="keep">mixed: long prompt</td>' in page
    assert "Long prompt: total samples: 50, Unique samples: 1" in page


def test_junit_has_a_case_for_each_prompt_of_each_target() -> None:
    cases = ET.fromstring(render_junit(model_record())).findall(".//testcase")
    names = [(case.get("classname"), str(case.get("name")).partition(" [")[0]) for case in cases]
    assert ("nightly-model.invariant", "mixed: long prompt bf16 batch_invariance") in names
    assert len(names) == 1 + 4


def test_json_leads_with_each_targets_modes() -> None:
    document = json.loads(json_text("run", run_document(model_record())))
    told = [(it["target"], it["mode"], it["total"], it["unique"]) for it in document["summary"]["configurations"]]
    assert told == [("streamk", "mixed", 100, 3), ("invariant", "mixed", 100, 1)]
    assert document["judgement"]["verdicts"][0]["prompt"] == {"mode": "mixed", "name": "prompt 1"}

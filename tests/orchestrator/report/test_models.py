"""Reports of model runs: the words for targets and prompts, in every format."""

from __future__ import annotations

import io
import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from orchestrator.cli.output import json_text
from orchestrator.report.document import run_document
from orchestrator.report.html import render_html
from orchestrator.report.junit import render_junit
from orchestrator.report.markdown import render_markdown
from orchestrator.report.parting import divergence_words
from orchestrator.report.table import render_table
from orchestrator.report.words import notes
from specs.result import Coverage, RunRecord
from tests.orchestrator.builders import divergence, model_judgement, model_record


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


def traced() -> RunRecord:
    judgement = model_judgement()
    first, *others = judgement.verdicts
    ran = [
        Coverage(variant="streamk", kind="fp8_gemm", implementation="farm:streamk", operations=9, outside=False),
        Coverage(variant="invariant", kind="matmul", implementation="torch:matmul", operations=1, outside=True),
    ]
    parted = first.model_copy(update={"divergence": divergence()})
    return model_record(judgement.model_copy(update={"verdicts": [parted, *others], "coverage": ran}))


PARTED = (
    "at layers.0.self_attn.qkv_a_proj (fp8_gemm by farm:streamk, (m, n, k) = (51, 320, 1024) and (102, 320, 1024)) on "
    "rank 0, step 0 and 2, token 17 of 'prompt 1 #1' and 'prompt 1 #2' in batch 1 and 3: its inputs were equal; 12 of "
    "320 numbers of the row differ, at most 128 ULP apart, the first at (17, 4): 0.5 (0x3f00) and 0.25 (0x3e80); what "
    "is sampled differs from token 50 on"
)


def test_where_a_group_parted_is_told_before_the_control_is() -> None:
    parted, outside, control = notes(traced())
    assert (parted.heading, parted.groups) == ("parted first", ("streamk mixed: prompt 1 bf16 batch_invariance",))
    assert parted.text == PARTED
    assert (outside.heading, outside.groups) == ("outside the deterministic set", ("invariant",))
    assert outside.text == "matmul ran as torch:matmul (1 operation in the batches that were traced)"
    assert control.heading == "control flipped"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights_equal": False}, "its inputs were equal, its weights were not; 12 of 320"),
        ({"inputs_equal": False}, "an input that nothing traced had made differed, so the fault lies before it; 12"),
        ({"row": None}, "its inputs were equal; it did not part again when its tensors were to be kept; what is"),
        ({"gemm_shapes": None, "kind": "rms_norm"}, "(rms_norm by farm:streamk) on rank 0"),
        ({"steps": (3, 3)}, "on rank 0, step 3, token 17"),
    ],
)
def test_what_is_known_of_the_operation(changes: dict[str, Any], told: str) -> None:
    assert told in divergence_words(divergence(**changes))


def test_every_report_tells_where_a_group_parted_and_what_ran() -> None:
    record = traced()
    markdown, page = render_markdown(record), render_html(record)
    document = json.loads(json_text("run", run_document(record)))
    assert "**parted first**" in markdown and "- fp8\\_gemm ran as farm:streamk (9 operations" in markdown
    assert "parted first" in page and "What ran in streamk" in page and "fp8_gemm ran as farm:streamk" in page
    assert document["summary"]["configurations"][0]["first_divergence"] == PARTED
    assert document["judgement"]["verdicts"][0]["divergence"]["op"] == "layers.0.self_attn.qkv_a_proj"
    assert document["judgement"]["coverage"][1]["outside"] is True
    assert RunRecord.model_validate_json(record.model_dump_json()) == record

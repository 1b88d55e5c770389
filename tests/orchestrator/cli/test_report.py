from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.report.html import render_html
from orchestrator.report.markdown import render_markdown
from orchestrator.store import Store
from specs.errors import ExitCode
from specs.result import Judgement, RunRecord, RunStatus
from tests.orchestrator import builders
from tests.orchestrator.cli.farm import farm
from tests.orchestrator.cli.stored import stored as stored


def test_each_format_goes_to_standard_output(stored: list[RunRecord]) -> None:
    run = stored[0]
    assert farm("report", run.id) == farm("report", run.id, "--format", "md") == (0, render_markdown(run), "")
    assert farm("report", run.id, "--format", "html") == (0, render_html(run), "")
    assert ET.fromstring(farm("report", run.id, "--format", "junit")[1]).tag == "testsuites"
    document = json.loads(farm("report", run.id, "--format", "json")[1])
    assert document == json.loads(farm("show", run.id, "--json")[1])
    assert json.loads(farm("report", run.id, "--json")[1]) == document


def test_a_format_that_is_not_there_names_those_that_are(stored: list[RunRecord]) -> None:
    code, _, err = farm("report", stored[0].id, "--format", "pdf")
    assert code == ExitCode.USAGE and all(f"'{name}'" in err for name in ("md", "html", "json", "junit"))


@pytest.mark.parametrize("name", ["out.html", "a'; echo foo", "a\n0", "\U0001f525"])
def test_it_goes_into_a_file_if_asked(stored: list[RunRecord], tmp_path: Path, name: str) -> None:
    assert farm("report", stored[0].id, "--format", "html", "--output", str(tmp_path / name)) == (0, "", "")
    assert (tmp_path / name).read_text(encoding="utf-8") == render_html(stored[0])


def test_a_file_that_can_not_be_written(stored: list[RunRecord], tmp_path: Path) -> None:
    code, _, err = farm("report", stored[0].id, "--output", str(tmp_path / "not" / "there"))
    assert code == ExitCode.USAGE and err.endswith("not/there: No such file or directory\n")


def test_a_number_that_json_has_not_is_null(stored: list[RunRecord]) -> None:
    speeds = [builders.speed(relative_error=math.nan)]
    judgement = Judgement(verdicts=[], speeds=speeds, errors=[], exit_code=ExitCode.FAILED)
    with Store.open() as store:
        store.set_status(stored[0].id, RunStatus.COMPLETE, judgement=judgement)
    out = farm("report", stored[0].id, "--format", "json")[1]
    assert "NaN" not in out and json.loads(out)["judgement"]["speeds"][0]["relative_error"] is None

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specs.result import RunRecord
from tests.orchestrator.cli.farm import farm
from tests.orchestrator.cli.stored import stored as stored


def test_runs_are_listed_with_what_came_of_them(stored: list[RunRecord]) -> None:
    code, out, err = farm("list")
    assert (code, err) == (0, "")
    first = next(line for line in out.splitlines() if stored[0].id in line)
    assert "nightly" in first and "complete" in first and "1/3" in first and first.split()[-1] == "1"
    assert "2 deterministic, 2 nondeterministic, 1 inconclusive, 1 unsupported, 1 error" in first
    assert "running" in next(line for line in out.splitlines() if stored[2].id in line)


def test_json_holds_the_whole_records(stored: list[RunRecord]) -> None:
    document = json.loads(farm("list", "--json")[1])
    assert document["format"] == "farm.runs/1"
    records = {run["id"]: RunRecord.model_validate_json(json.dumps(run)) for run in document["runs"]}
    assert records == {run.id: run for run in stored}


def test_a_name_and_a_number_narrow_the_list(stored: list[RunRecord]) -> None:
    assert {run["id"] for run in json.loads(farm("list", "--json", "--name", "nightly")[1])["runs"]} == {
        stored[0].id,
        stored[1].id,
    }
    assert len(json.loads(farm("list", "--json", "--limit", "1")[1])["runs"]) == 1
    assert farm("list", "--limit", "0")[0] == 2


def test_no_runs_is_told_beside_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/empty.db")
    assert farm("list") == (0, "", "There are no runs yet: start one with farm submit SPEC.\n")
    assert "no runs of x yet" in farm("list", "--name", "x")[2]
    assert json.loads(farm("list", "--json")[1])["runs"] == []


def test_a_database_that_fails_is_an_infrastructure_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", f"sqlite:///{tmp_path}/not/there.db")
    code, out, err = farm("list")
    assert (code, out) == (4, "") and err.startswith("farm: the database sqlite:///") and "Traceback" not in err

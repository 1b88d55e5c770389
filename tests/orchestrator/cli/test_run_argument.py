"""Completion of run ids: in the shell of a person who is in the middle of a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.run_argument import complete_runs
from specs.result import RunRecord
from tests.orchestrator.cli.stored import stored as stored


def test_ids_are_completed_with_the_name_of_their_spec(stored: list[RunRecord]) -> None:
    assert sorted(complete_runs("")) == sorted((run.id, run.name) for run in stored)
    assert complete_runs(stored[0].id) == [(stored[0].id, "nightly")]
    assert complete_runs("x") == []


@pytest.mark.parametrize(
    "url", ["sqlite:////proc/nowhere/farm.db", "no url", "postgresql://farm@127.0.0.1:1/farm", "mysql://x/y"]
)
def test_it_is_silent_when_there_is_no_database(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", url)
    assert complete_runs("") == []
    assert capfd.readouterr() == ("", "")


def test_a_shell_gets_the_ids(stored: list[RunRecord]) -> None:
    line = {"_FARM_COMPLETE": "complete_bash", "COMP_WORDS": f"farm compare {stored[0].id[:4]}", "COMP_CWORD": "2"}
    done = subprocess.run(
        [Path(sys.executable).parent / "farm"], env={**os.environ, **line}, capture_output=True, text=True, timeout=60
    )
    assert sorted(done.stdout.split()) == sorted(run.id for run in stored)
    assert done.stderr == ""

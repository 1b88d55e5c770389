"""The commands of the main path as a user runs them: processes of their own, each with its own Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.store import Store

FARM = [sys.executable, "-c", "from orchestrator.cli.app import main; main()"]

SLOW = """
version: 1
kind: kernel
name: slow
op: fp8_blockwise_gemm
device: cpu
variants: [{name: "python:tests.targets:unordered", expect: nondeterministic}, "python:tests.targets:slow"]
shapes: [[2, 1024, 8]]
dtypes: [fp32]
stress: [quiet, random_pauses, thread_count, shifted_allocations]
trials: 40
gates: {accuracy: null}
"""


@pytest.fixture
def farm(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `farm` with a database, runs and a home of its own."""
    (tmp_path / "home").mkdir()
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "FARM_DATABASE_URL": f"sqlite:///{tmp_path / 'farm.db'}",
        "FARM_RUNS_DIR": str(tmp_path / "runs"),
    }

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*FARM, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_results(path: Path, at_least: int) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with Store.open(f"sqlite:///{path}") as store:
            runs = store.runs()
            if runs and runs[0].units_done >= at_least:
                return runs[0].id
        time.sleep(0.1)
    raise AssertionError("no results")


def kill_all(process: subprocess.Popen[str]) -> None:
    """kill -9 of the farm and of everything that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.communicate(timeout=20)


def test_a_run_survives_ctrl_c_and_kill_9_and_ends_in_every_report_as_if_nothing_had_been(
    farm: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    spec, database = tmp_path / "a'; echo foo.yaml", tmp_path / "farm.db"
    spec.write_text(SLOW)

    submitted = farm("submit", str(spec))
    run = wait_for_results(database, 3)
    submitted.send_signal(signal.SIGINT)
    code, _, err = finished(submitted)
    assert (code, f"farm resume {run}" in err, "Traceback" in err) == (130, True, False)
    with Store.open(f"sqlite:///{database}") as store:
        interrupted = store.get(run)
    assert interrupted.status == "interrupted"

    resumed = farm("resume", run)
    wait_for_results(database, interrupted.units_done + 2)
    kill_all(resumed)
    with Store.open(f"sqlite:///{database}") as store:
        killed = store.get(run)
    assert killed.status == "interrupted"
    assert interrupted.units_done + 2 <= killed.units_done < killed.units

    junit, html = tmp_path / "a b.xml", tmp_path / "ü.html"
    code, out, err = finished(farm("resume", run[:-2], "--json", "--junit", str(junit), "--html", str(html)))
    assert code == 0, err
    assert f"{killed.units - killed.units_done} of {killed.units} units to do" in err
    assert " flips" in err
    document = json.loads(out)
    assert (document["format"], document["status"]) == ("farm.run/1", "complete")
    verdicts: list[dict[str, Any]] = document["judgement"]["verdicts"]
    assert [(verdict["trials"], verdict["total"]) for verdict in verdicts] == [(160, 160), (160, 160)]
    assert [verdict["outcome"] for verdict in verdicts] == ["nondeterministic", "deterministic"]
    assert len(ET.parse(junit).findall(".//testcase")) >= 2
    assert html.read_text().lstrip().lower().startswith("<!doctype html>")
    assert not (tmp_path / "home" / ".ray").exists()


def test_what_can_not_be_run_is_told_without_a_traceback(farm: Callable[..., subprocess.Popen[str]]) -> None:
    code, _, err = finished(farm("submit", "seed-pr", "--set", "trials=-1", "--set", "variants[0]=invariantt"))
    assert (code, "Traceback" in err) == (2, False)
    assert "trials" in err and "invariant" in err


def test_gpus_that_are_not_there_are_told(farm: Callable[..., subprocess.Popen[str]]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, _, err = finished(farm("submit", "quick", "--set", "device=cuda"))
    assert code == 2
    assert "set device: cpu" in err


def test_a_report_that_can_not_be_written_is_told_before_anything_is_run(
    farm: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    spec = tmp_path / "slow.yaml"
    spec.write_text(SLOW)
    missing = tmp_path / "no" / "verdicts.xml"
    code, out, err = finished(farm("submit", str(spec), "--junit", str(missing)))
    assert (code, out) == (2, "")
    assert f"can't write {missing}: there is no folder {missing.parent}" in err
    assert "there are no runs yet" in finished(farm("show", "latest"))[2]

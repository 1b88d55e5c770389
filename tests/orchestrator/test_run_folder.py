"""The run folder: whole files or none, whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.folders import runs_folder
from orchestrator.run_folder import RunFolder
from specs.errors import InfrastructureError
from specs.result import Judgement
from specs.unit import Plan
from tests.orchestrator import builders

DIGEST = "ab" * 16


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "20261122-164501-a1b2")


def files(folder: RunFolder) -> list[str]:
    return sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())


def test_everything_of_a_run_is_kept_under_its_name(folder: RunFolder) -> None:
    plan, judgement = builders.plan(), builders.every_outcome()
    folder.write_spec("name: nightly\n# \U0001f525 and \udcff\n")
    folder.write_plan(plan)
    folder.write_environments([builders.environment()])
    folder.write_judgement(judgement)
    folder.save_witness(DIGEST, b"\0\1")
    folder.log("unit 3: it died")
    assert files(folder) == [
        "environments.json",
        "farm.log",
        "judgement.json",
        "plan.json",
        "spec.yaml",
        f"witnesses/{DIGEST}.bin",
    ]
    assert Plan.model_validate_json((folder.path / "plan.json").read_bytes()) == plan
    assert Judgement.model_validate_json((folder.path / "judgement.json").read_bytes()) == judgement
    assert json.loads((folder.path / "environments.json").read_bytes())[0]["node"] == "node-1"
    assert folder.load_witness(DIGEST) == b"\0\1"


def test_the_log_grows(folder: RunFolder) -> None:
    folder.log("one")
    folder.log("two\nlines\n")
    lines = folder.log_file.read_text().splitlines()
    assert [line.split(" ", 2)[-1] for line in lines] == ["one", "two", "lines"]


def test_the_first_witness_of_a_digest_stays(folder: RunFolder) -> None:
    folder.save_witness(DIGEST, b"first")
    folder.save_witness(DIGEST, b"again")
    assert folder.load_witness(DIGEST) == b"first"
    assert folder.load_witness("cd" * 16) is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a'; echo foo", "a\n0", "AB", "ab\n", "x" * 16, "ab" * 200])
def test_only_a_digest_becomes_a_file_name(folder: RunFolder, name: str) -> None:
    with pytest.raises(ValueError, match="no digest in hex"):
        folder.save_witness(name, b"")
    with pytest.raises(ValueError, match="no digest in hex"):
        folder.load_witness(name)
    assert not folder.path.exists()


@pytest.mark.parametrize("name", ["a'; echo foo", "a\n0", "-rf", "\U0001f525", " ", "%s%n"])
def test_a_hostile_folder_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / name)
    folder.write_spec("x")
    assert files(folder) == ["spec.yaml"]


def test_a_full_disk_leaves_the_old_file_and_no_other(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_spec("old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InfrastructureError, match=r"spec\.yaml: the disk is full.*FARM_RUNS_DIR"):
        folder.write_spec("new")
    with pytest.raises(InfrastructureError, match="the disk is full"):
        folder.save_witness(DIGEST, b"new")
    assert files(folder) == ["spec.yaml"]
    assert (folder.path / "spec.yaml").read_text() == "old"


_WRITE_PAST_A_LIMIT = """
import resource, signal, sys
from orchestrator.run_folder import RunFolder
from specs.errors import InfrastructureError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    RunFolder(sys.argv[1]).save_witness("ab", b"x" * 100_000)
except InfrastructureError as error:
    print(error)
"""


def test_a_write_that_stops_in_the_middle_leaves_nothing(folder: RunFolder) -> None:
    command = [sys.executable, "-c", _WRITE_PAST_A_LIMIT, str(folder.path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "ab.bin: File too large" in told.stdout, told.stderr
    assert (folder.path / "witnesses").is_dir() and files(folder) == []


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder without permission to write, also where the tests run as root, whom permissions don't stop."""
    tmp_path.chmod(0o555)
    was_root = os.geteuid() == 0
    for parent in tmp_path.parents[:3] if was_root else ():
        parent.chmod(parent.stat().st_mode | 0o111)
    if was_root:
        os.seteuid(65534)
    yield tmp_path
    if was_root:
        os.seteuid(0)
    tmp_path.chmod(0o755)


def test_a_read_only_folder_is_told_in_plain_words(read_only: Path) -> None:
    folder = RunFolder(read_only / "run")
    told = r"no permission to write there.*FARM_RUNS_DIR"
    with pytest.raises(InfrastructureError, match=told):
        folder.write_spec("x")
    with pytest.raises(InfrastructureError, match=told):
        folder.log("x")
    assert list(read_only.iterdir()) == []


def test_a_file_in_the_way_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InfrastructureError, match="a file stands where a folder has to be"):
        RunFolder(tmp_path / "run").write_spec("x")


def test_runs_lie_in_the_users_data_folder_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("FARM_RUNS_DIR", raising=False)
    assert runs_folder() == tmp_path / "farm" / "runs"
    monkeypatch.setenv("FARM_RUNS_DIR", "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert runs_folder() == tmp_path / "elsewhere"  # absolute: the run is shown from other folders, too

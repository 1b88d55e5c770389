from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.store import Store
from specs.errors import ExitCode
from specs.result import RunStatus
from tests.orchestrator import builders
from tests.orchestrator.cli.farm import farm


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    url = f"sqlite:///{tmp_path}/farm.db"
    monkeypatch.setenv("FARM_DATABASE_URL", url)
    with Store.open(url) as store:
        run = store.create_run(builders.plan(), farm_version="0.1.0")
        store.set_status(run.id, RunStatus.COMPLETE, judgement=builders.every_outcome())
        yield


def test_once_writes_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "out" / "farm.prom"
    path.parent.mkdir()
    assert farm("metrics", "--once", str(path)) == (ExitCode.MET, "", "")
    assert 'farm_flips_total{device="Some CPU @ 2 GHz"' in path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_once_to_standard_output_leaves_out_the_process() -> None:
    code, out, _ = farm("metrics", "--once", "-")
    assert code == ExitCode.MET
    assert "farm_scrape_success 1.0\n" in out
    assert "process_" not in out


@pytest.mark.parametrize(("arguments", "given"), [((), "neither"), (("--port", "0", "--once", "-"), "both")])
def test_one_of_port_and_once_has_to_be_given(arguments: tuple[str, ...], given: str) -> None:
    code, _, err = farm("metrics", *arguments)
    assert (code, err.split(":")[1].strip()) == (ExitCode.USAGE, f"{given} given")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, _, err = farm("metrics", "--once", str(tmp_path / "no" / "farm.prom"))
    assert code == ExitCode.USAGE
    assert err == f"farm: can't write {tmp_path}/no/farm.prom: No such file or directory\n"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        code, _, err = farm("metrics", "--port", port)
    assert code == ExitCode.USAGE
    assert err == f"farm: can't listen on 127.0.0.1:{port}: Address already in use; give another --port or --host\n"


def test_once_writes_nothing_where_the_database_does_not_answer(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "farm.db")) as connection:
        connection.execute("ALTER TABLE speeds RENAME TO gone")
    code, _, err = farm("metrics", "--once", str(tmp_path / "farm.prom"))
    assert code == ExitCode.INFRASTRUCTURE
    assert "no such table: speeds" in err
    assert not (tmp_path / "farm.prom").exists()


def test_it_serves_until_it_is_told_to_stop() -> None:
    command = [str(Path(sys.executable).parent / "farm"), "metrics", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        line = service.stderr.readline()
        address = line.removeprefix("serving metrics on ").strip()
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
        assert 'farm_runs{spec="nightly",status="complete"} 1.0' in text
        assert "process_start_time_seconds" in text
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=10) == 0

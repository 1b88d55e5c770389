"""A real Prometheus that scrapes a real `farm metrics`, as deploy/ sets them up, on free ports of this machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRAPES_PER_S = 5


class Prometheus:
    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series, each with `metric` (its labels) and `value` (when, and what as text)."""
        answer = self.get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 30
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} gave nothing in 30 s"
            time.sleep(0.1)
        return found

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self._address + path, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path}: {error.read().decode()}") from None


@contextmanager
def farm_metrics() -> Iterator[str]:
    """Host and port of `farm metrics` on the database of FARM_DATABASE_URL."""
    command = [str(Path(sys.executable).parent / "farm"), "metrics", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        line = service.stderr.readline()
        assert line.startswith("serving metrics on http://"), line + service.stderr.read()
        try:
            yield line.split("/")[2]
        finally:
            service.terminate()


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """With the configuration and rules of deploy/, but scraping `target`, and more often."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{1000 // SCRAPES_PER_S}ms", "evaluation_interval": "200ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        command += [f"--web.listen-address={address}", "--log.level=warn"]
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server:
            try:
                _wait_until_it_answers(f"http://{address}/-/ready", server, folder / "log")
                yield Prometheus(f"http://{address}")
            finally:
                server.terminate()


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

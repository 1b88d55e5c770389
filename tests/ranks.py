"""Ranks that die, hang or differ at one stage of a gang's life, for tests to start in the place of `workers.rank.Rank`.

Every fault strikes in one gang: a file in `FARM_TEST_SCRATCH` holds those that are still to come.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from specs.device import Device
from specs.model_job import ModelJob
from workers.rank import Rank

LAST = 1
"""The rank that is faulty."""


class FaultyRank(Rank):
    """Rank 1 has the faults that the file `fault` lists, one a line: `STAGE die`, `later`, `hang` or `differ`.

    `STAGE well` is none, and lets one gang come to its end.
    """

    def __init__(self, job: ModelJob, target: str, rank: int, device: Device) -> None:
        super().__init__(job, target, rank, device)
        self._faulty = rank == LAST

    def prepare(self) -> Any:
        self._strike("prepare")
        found: Any = super().prepare()
        if self._faulty and fault_file().exists() and fault_file().read_text() == "prepare differ":
            return found.model_copy(update={"torch": "1.0", "driver": "555"})
        return found

    def arrive(self, address: str, port: int) -> Any:
        self._strike("arrive")
        return super().arrive(address, port)

    def join(self, timeout_s: float) -> Any:
        self._strike("join")
        return super().join(timeout_s)

    def load(self) -> Any:
        self._strike("load")
        return super().load()

    def run(self, unit: Any, attempt: int, known: Any) -> Any:
        self._strike("run")
        return super().run(unit, attempt, known)

    def _strike(self, stage: str) -> None:
        file = fault_file()
        if not self._faulty or not file.exists():
            return
        first, *others = file.read_text().splitlines()
        where, how = first.split()
        if where != stage or how == "differ":
            return
        if others:
            file.write_text("\n".join(others))
        else:
            file.unlink()
        if how == "hang":
            time.sleep(600)
        elif how == "later":  # while the ranks are in the middle of it
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif how == "die":
            os.kill(os.getpid(), signal.SIGKILL)


def fault_file() -> Path:
    return Path(os.environ["FARM_TEST_SCRATCH"]) / "fault"

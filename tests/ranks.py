"""Ranks that die, hang or differ at one stage of a gang's life, for tests to start in the place of `workers.rank.Rank`.

The first gang in which a fault strikes is the last: `FARM_TEST_SCRATCH` remembers it.
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
    """Rank 1 has a fault, once, at the stage that the file `fault` names: `STAGE die`, `later`, `hang` or `differ`."""

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
        where, how = file.read_text().split()
        if where != stage or how == "differ":
            return
        file.unlink()
        if how == "hang":
            time.sleep(600)
        if how == "later":  # while the ranks are in the middle of it
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def fault_file() -> Path:
    return Path(os.environ["FARM_TEST_SCRATCH"]) / "fault"

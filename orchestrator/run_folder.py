"""The folder of one run. The name of every file in it is here and nowhere else.

    RUN/spec.yaml            as the user gave it, overrides applied
    RUN/plan.json            what was run
    RUN/environments.json    where
    RUN/judgement.json       what came of it
    RUN/farm.log             what went wrong on the way, with tracebacks
    RUN/witnesses/HEX.bin    the bytes of the first sample with digest HEX
    RUN/batches/UNIT.json    the requests that were drawn for a unit of a model job
    RUN/operations/HEX.safetensors  inputs and outputs of an operation that parted, by their digest

A file is there whole or not at all: it is written under a temporary name, synced and renamed. The log only grows.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.folders import disk_failure
from specs.result import Environment, Judgement
from specs.unit import Plan

_DIGEST = re.compile(r"[0-9a-f]{1,128}")


class RunFolder:
    """Made when the first file is written. What writes raises InfrastructureError where the disk can't take it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def log_file(self) -> Path:
        return self.path / "farm.log"

    def write_spec(self, text: str) -> None:
        self._write(self.path / "spec.yaml", text.encode("utf-8", "backslashreplace"))

    def write_plan(self, plan: Plan) -> None:
        self._write(self.path / "plan.json", plan.model_dump_json(indent=2).encode())

    def write_environments(self, environments: Sequence[Environment]) -> None:
        text = TypeAdapter(list[Environment]).dump_json(list(environments), indent=2)
        self._write(self.path / "environments.json", text)

    def write_judgement(self, judgement: Judgement) -> None:
        self._write(self.path / "judgement.json", judgement.model_dump_json(indent=2).encode())

    def write_batches(self, unit: int, text: str) -> None:
        self._write(self.path / "batches" / f"{unit}.json", text.encode())

    def save_operation(self, digest: str, content: bytes) -> None:
        """Keep a safetensors file. ``digest`` is in hex, else ValueError."""
        self._write(self.operation(digest), content)

    def operation(self, digest: str) -> Path:
        """Where the tensors of an operation that parted are kept."""
        return self.path / "operations" / f"{_checked(digest)}.safetensors"

    def save_witness(self, digest: str, sample: bytes) -> None:
        """Keep the bytes of a sample; one that is kept already stays. ``digest`` is in hex, else ValueError."""
        path = self._witness(digest)
        if not path.exists():
            self._write(path, sample)

    def load_witness(self, digest: str) -> bytes | None:
        """The bytes of the sample with this digest, or None if they were not kept."""
        try:
            return self._witness(digest).read_bytes()
        except OSError:
            return None

    def log(self, text: str) -> None:
        """Add an entry to the log, with the time."""
        entry = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text.rstrip()}\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.log_file.open("ab", buffering=0) as log:
                log.write(entry.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise disk_failure(error, self.log_file, "FARM_RUNS_DIR") from error

    def _witness(self, digest: str) -> Path:
        return self.path / "witnesses" / f"{_checked(digest)}.bin"

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            _sync_folder(path.parent)
        except OSError as error:
            raise disk_failure(error, path, "FARM_RUNS_DIR") from error


def _checked(digest: str) -> str:
    """It becomes a file name."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is no digest in hex")
    return digest


def _sync_folder(folder: Path) -> None:
    """Without it a power cut may undo the rename."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

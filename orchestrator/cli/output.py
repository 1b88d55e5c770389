"""How every command prints: JSON in a versioned envelope, or text for people."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specs.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def json_text(kind: str, payload: dict[str, Any]) -> str:
    """One JSON object. `format` names its shape: 'farm.KIND/1'. JSON has no NaN: such a number becomes null."""
    return json.dumps({"format": f"farm.{kind}/1", **_finite(payload)}, indent=2, ensure_ascii=False) + "\n"


def print_json(kind: str, payload: dict[str, Any]) -> None:
    """`json_text` on standard output."""
    sys.stdout.write(json_text(kind, payload))


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain text and never folds a table to 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 200, highlight=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_writable(*paths: Path | None) -> None:
    """Raise UsageError for a file that could not be written, before hours are spent on what goes into it."""
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UsageError(f"can't write {path}: there is no folder {path.parent}")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"can't write {path}: Permission denied")


def write_file(path: Path, text: str) -> None:
    """Write a file that the user asked for. Raises UsageError where that can't be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error

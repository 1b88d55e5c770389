"""How every command prints: JSON in a versioned envelope, or text for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(kind: str, payload: dict[str, Any]) -> None:
    """One JSON object on standard output. `format` names its shape: 'farm.KIND/1'."""
    json.dump({"format": f"farm.{kind}/1", **payload}, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain text and never folds a table to 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 200, highlight=False)

"""The farm's exceptions, and the exit code that each one ends `farm` with.

FarmError
├── UsageError            2   what the user gave can't be taken as it is
│   └── SpecError             a spec is wrong; carries every problem found, with its place
└── InfrastructureError   4   the farm or a machine failed; never a verdict about a target
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What `farm` returns, from every command."""

    MET = 0
    FAILED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INFRASTRUCTURE = 4
    INTERRUPTED = 130


class FarmError(Exception):
    """A failure that is told to the user without a traceback."""

    exit_code = ExitCode.INFRASTRUCTURE


class UsageError(FarmError):
    """The user can mend this: the message has the value given, what is allowed and what to do."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a spec."""

    source: str
    """The file, 'standard input', or the override as it was typed."""
    line: int | None
    column: int | None
    """Both counted from 1; None where the problem has no one place."""
    path: str
    """Into the spec, like `shapes[1].mkn`; empty for the whole."""
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class SpecError(UsageError):
    """A spec can't be used. The message is one line for each of `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "a problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{count} in the spec", *map(str, self.problems)]))


class InfrastructureError(FarmError):
    """A machine, the cluster, the disk or a build failed."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The end of a message about a name that isn't known: '; the nearest is NAME', or '' if none is near."""
    from difflib import get_close_matches

    # the length bounds difflib's time, which is quadratic
    folded = {name.lower().replace("_", "-"): name for name in allowed}
    found = get_close_matches(given[:100].lower().replace("_", "-"), folded, n=1, cutoff=0.7)
    return f"; the nearest is {folded[found[0]]}" if found else ""


def printable(text: str) -> str:
    """Text with escapes for what moves a terminal's cursor or can't be encoded."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str) -> str:
    """A value for a message: printable, and at most 60 characters of it."""
    return printable(text if len(text) <= 60 else text[:40] + "…" + text[-15:])

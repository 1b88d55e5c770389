"""The farm's exceptions, and the exit code that each one ends `farm` with.

    FarmError
    ├── UsageError            2   what the user gave can't be taken as it is
    │   └── SpecError             a spec is wrong; carries every problem found, with its place
    └── InfrastructureError   4   the farm or a machine failed; never a verdict about a target
"""

from __future__ import annotations

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


class InfrastructureError(FarmError):
    """A machine, the cluster, the disk or a build failed."""

"""What comes back from Ray for a call: a result, a failure that was sent as data, or the death of a process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from workers.failure import Failure

GRACE_S = 5.0
"""How long the others of a gang are waited for when one has failed: the one to blame may be noticed last."""


def answer_of(ref: Any) -> Any:
    """What a reference that is ready holds; RayError where its process died or the call raised."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return error


def is_bad(answer: Any) -> bool:
    return isinstance(answer, Failure | Exception)


def first_cause(refs: Sequence[Any], answers: Mapping[Any, Any]) -> tuple[int, Failure | Exception]:
    """Of calls that belong together, the place of the one to blame, and what it gave.

    A process that died outranks those that failed, most often because they could no longer reach it, and a failure
    that the user can mend outranks others. At least one of ``answers`` has to be bad.
    """
    import ray

    known, deadline = dict(answers), time.monotonic() + GRACE_S
    while not any(isinstance(answer, Exception) for answer in known.values()):
        missing = [ref for ref in refs if ref not in known]
        ready, _ = ray.wait(missing, timeout=max(0.0, deadline - time.monotonic())) if missing else ([], [])
        if not ready:
            break
        known |= {ref: answer_of(ref) for ref in ready}
    bad = [(place, known[ref]) for place, ref in enumerate(refs) if ref in known and is_bad(known[ref])]
    return min(bad, key=lambda found: _rank(found[1]))


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _rank(cause: Failure | Exception) -> int:
    return 0 if isinstance(cause, Exception) else 1 if cause.usage else 2

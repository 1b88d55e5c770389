"""A valid spec, and what is said of it after one change."""

from __future__ import annotations

import pytest

from specs.errors import SpecError
from specs.kernel_job import KernelJob
from specs.load import parse_job

VALID = """\
version: 1
kind: kernel
name: example
op: fp8_blockwise_gemm
variants:
  - {name: streamk, expect: nondeterministic}
  - invariant
shapes:
  - [64, 4096, 128]
  - {set: sensitive, required: false}
trials: 50
"""


def parsed(text: str, *overrides: str) -> KernelJob:
    job = parse_job(text, "job.yaml", overrides)
    assert isinstance(job, KernelJob)
    return job


def complaints(text: str, *overrides: str) -> list[str]:
    """Every problem of a spec, as a user reads them."""
    with pytest.raises(SpecError) as caught:
        parsed(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def complaint(text: str, *overrides: str) -> str:
    """The only problem of a spec."""
    (only,) = complaints(text, *overrides)
    return only


def changed(old: str, new: str) -> str:
    assert VALID.count(old) == 1
    return VALID.replace(old, new)

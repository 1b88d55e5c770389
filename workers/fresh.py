"""One unit in a process of its own, for cross_process: a unit on standard input, its outputs on standard output."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import torch

from specs.unit import KernelUnit
from workers.runner import Known, Outputs, Runner


class ProcessFailed(Exception):
    """A fresh process ended without outputs. Another may not."""


def run_fresh(unit: KernelUnit, attempt: int, known: Known) -> Outputs:
    """Run a unit in a new Python process that inherits this one's environment.

    Raises ProcessFailed with the end of the process's output where it fails.
    """
    process = subprocess.run(
        [sys.executable, "-m", "workers.fresh"],
        input=pickle.dumps((unit, attempt, known)),
        capture_output=True,
        timeout=unit.timeout_s,
        check=False,
    )
    if process.returncode != 0:
        end = process.stderr.decode(errors="replace").strip()[-2000:]
        raise ProcessFailed(f"a fresh process for {unit} ended with status {process.returncode}: {end}")
    outputs = pickle.loads(process.stdout)
    assert isinstance(outputs, Outputs)
    return outputs


if __name__ == "__main__":
    # What libraries print goes to standard error, so that it can't get into the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    given_unit, given_attempt, given_known = pickle.load(sys.stdin.buffer)
    with answer:
        answer.write(pickle.dumps(Runner(torch.device(given_unit.device)).run(given_unit, given_attempt, given_known)))

"""Trials on the CPU: each result is digested as soon as it is there."""

from __future__ import annotations

import torch

from specs.unit import KernelUnit
from workers.digest import digest, row_digests
from workers.ledger import Ledger
from workers.problem import Problem
from workers.stress import Bound, Stressed
from workers.trials import batches


def repeats(unit: KernelUnit, stressed: Stressed, problem: Problem, ledger: Ledger) -> None:
    """The same product again and again; the whole output is one sample."""
    bound: Bound | None = None
    for trial in range(unit.first_trial, unit.first_trial + unit.trials):
        if bound is None or stressed.rebinds:
            bound = stressed.bind(problem.inputs, problem.output(unit.dtype), trial)
        stressed.run(bound, trial)
        found = digest(bound.out)
        ledger.begin_trial()
        ledger.count(found, trial)
        ledger.keep(found, bound.out)


def batch_rows(unit: KernelUnit, stressed: Stressed, problem: Problem, ledger: Ledger) -> None:
    """Batches of different size cut from one pool of rows; each row is a sample."""
    whole: torch.Tensor | None = None
    for trial, offset, rows in batches(unit):
        inputs = problem.pool.rows(offset, offset + rows)
        bound = stressed.bind(inputs, problem.output(unit.dtype, rows), trial)
        stressed.run(bound, trial)
        out = bound.out
        whole = out if whole is None else whole
        ledger.begin_trial()
        for row, found in enumerate(row_digests(out)):
            first = ledger.count(found, trial, offset + row)
            if first is not None:
                ledger.keep(first, whole[offset + row : offset + row + 1])
                ledger.keep(found, out[row : row + 1])

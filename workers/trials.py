"""The batches that batch_invariance tries."""

from __future__ import annotations

import random
from collections.abc import Iterator

from specs.device import Device
from specs.unit import KernelUnit, pool_rows

EVERY_SIZE_TO = 256
"""On a GPU, where a trial costs little: batches of every size up to this, then sizes drawn from the seed."""


def batches(unit: KernelUnit) -> Iterator[tuple[int, int, int]]:
    """(trial, offset, rows) of a batch_invariance unit.

    First the whole pool, so that every row of the others has something to be held against. Then on the CPU the ends
    (one row, all but one), and on a GPU every size up to 256; then sizes drawn from the seed. A batch is cut from the
    pool's front, its middle or its end in turn.
    """
    pool = pool_rows(unit.shape)
    ends = (1, pool - 1) if unit.device is Device.CPU else (*range(1, min(EVERY_SIZE_TO, pool - 1) + 1), pool - 1)
    for trial in range(unit.first_trial, unit.first_trial + unit.trials):
        if trial == unit.first_trial:
            rows = pool
        elif trial <= len(ends):
            rows = ends[trial - 1]
        else:
            rows = random.Random(f"{unit.seed} batch {trial}").randint(1, pool - 1)
        yield trial, (0, (pool - rows) // 2, pool - rows)[trial % 3], rows

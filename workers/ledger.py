"""What a unit counts: digests into a cell, and the bytes of as many samples as a witness pair needs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from specs.result import Environment
from specs.uniqueness import Cell, Sighting
from specs.unit import KernelUnit, WorkUnit
from workers.digest import raw_bytes

if TYPE_CHECKING:
    import torch

KEPT_SAMPLES = 2
"""Of each group: what a witness pair needs."""


class Ledger:
    """``known`` are digests, in hex, of samples of this group that the farm has already."""

    def __init__(self, unit: WorkUnit, attempt: int, where: Environment, cell: Cell, known: frozenset[str]) -> None:
        self.samples: dict[str, bytes] = {}
        self._unit, self._attempt = unit, attempt
        self._conditions = unit.stress.value if isinstance(unit, KernelUnit) else unit.mode.value
        self._device = where.device_uuid or where.node
        self._cell, self._known = cell, known

    def begin_trial(self) -> None:
        self._cell.trials += 1

    def repeats(self, digests: npt.NDArray[np.int64], trial: int) -> None:
        """Count trials of one sample each, whose digests are (trials, 2), from number ``trial`` on.

        What a trial costs matters here: those that agree with the one before are counted all at once.
        """
        changes = np.flatnonzero((digests[1:] != digests[:-1]).any(axis=1)) + 1
        self._cell.trials += len(digests)
        for start, stop in itertools.pairwise((0, *changes.tolist(), len(digests))):
            seen = self._sighting(trial + start)
            self._cell.add(digests[start].tobytes(), seen, samples=stop - start)

    def count(self, digest: bytes, trial: int, item: int = 0, conditions: str = "") -> bytes | None:
        """Count one sample; the digest that its item showed first, if this is the first time it shows another.

        ``conditions`` are those of the sample alone, where they are not the unit's kind of stress.
        """
        if not self._cell.add(digest, self._sighting(trial, conditions), item):
            return None
        first = next(iter(self._cell.items[item]))
        return None if first == digest else first

    def keep(self, digest: bytes, sample: torch.Tensor | bytes) -> None:
        """Keep the bytes of a sample (a tensor has to be contiguous), if a pair is not complete yet."""
        name = digest.hex()
        if name not in self._known and len(self._known) + len(self.samples) < KEPT_SAMPLES:
            self.samples.setdefault(name, sample if isinstance(sample, bytes) else bytes(raw_bytes(sample)))

    def _sighting(self, trial: int, conditions: str = "") -> Sighting:
        return Sighting(trial, conditions or self._conditions, self._unit.index, self._attempt, self._device)

"""Counting distinct results. Counters merge in any order, and grow with distinct digests, not with samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from specs.job import Property
from specs.subject import Concerning
from specs.unit import Group


class Sighting(NamedTuple):
    """Where a digest was seen. Sightings are ordered, so that 'the first' is the same however counters were merged."""

    trial: int
    conditions: str
    """The kind of stress; of a model's answer, its place in the batch."""
    unit: int
    attempt: int
    device: str


class Tally(NamedTuple):
    samples: int
    first: Sighting

    def __add__(self, other: object) -> Tally:
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(self.samples + other.samples, min(self.first, other.first))


class Cell:
    """The counters of one group in one stratum. An item is one thing compared with itself: a row; 0 for the whole."""

    def __init__(self) -> None:
        self.trials = 0
        self.items: dict[int, dict[bytes, Tally]] = {}

    def add(self, digest: bytes, seen: Sighting, item: int = 0, samples: int = 1) -> bool:
        """Count samples of one digest, 16 bytes, the first of them as ``seen``.

        True if their item had not shown this digest here before.
        """
        tallies = self.items.get(item)
        if tallies is None:
            tallies = self.items[item] = {}
        known = tallies.get(digest)
        if known is None:
            tallies[digest] = Tally(samples, seen)
            return True
        tallies[digest] = Tally(known[0] + samples, known[1] if known[1] <= seen else seen)
        return False

    def merge(self, other: Cell) -> None:
        self.trials += other.trials
        for item, theirs in other.items.items():
            ours = self.items.setdefault(item, {})
            for digest, tally in theirs.items():
                ours[digest] = ours[digest] + tally if digest in ours else tally

    @property
    def total(self) -> int:
        return sum(tally.samples for tallies in self.items.values() for tally in tallies.values())

    @property
    def unique(self) -> int:
        """Distinct digests of the item that has most of them."""
        return max((len(tallies) for tallies in self.items.values()), default=0)

    @property
    def flips(self) -> int:
        """Samples that are not their item's most frequent result."""
        return sum(
            sum(tally.samples for tally in tallies.values()) - max(tally.samples for tally in tallies.values())
            for tallies in self.items.values()
        )

    def pairs(self) -> list[tuple[int, bytes, bytes]]:
        """Of every item that parted, (item, first digest, another one), those first that were seen first."""
        found = []
        for item, tallies in self.items.items():
            first, *others = sorted(tallies, key=lambda digest: (tallies[digest].first, digest))
            found += [(tallies[other].first, item, first, other) for other in others]
        return [(item, first, other) for _, item, first, other in sorted(found)]


class CellRecord(Concerning):
    """A cell as it is sent and stored."""

    property: Property
    stratum: str
    trials: int
    tallies: list[tuple[int, str, int, Sighting]]
    """(item, digest in hex, count, first sighting)"""


class UniquenessTable:
    """Cells by (group, stratum). `merge` is associative and commutative."""

    def __init__(self) -> None:
        self._cells: dict[Group, dict[str, Cell]] = {}

    def cell(self, group: Group, stratum: str) -> Cell:
        strata = self._cells.setdefault(group, {})
        if stratum not in strata:
            strata[stratum] = Cell()
        return strata[stratum]

    def strata(self, group: Group) -> dict[str, Cell]:
        """Of each stratum in which the group has samples, the cell."""
        return dict(self._cells.get(group, {}))

    def __iter__(self) -> Iterator[tuple[Group, str, Cell]]:
        for group, strata in self._cells.items():
            for stratum, cell in strata.items():
                yield group, stratum, cell

    def merge(self, other: UniquenessTable) -> None:
        for group, stratum, cell in other:
            self.cell(group, stratum).merge(cell)

    def records(self) -> list[CellRecord]:
        return [
            CellRecord(
                variant=group.variant,
                subject=group.subject,
                dtype=group.dtype,
                property=group.property,
                stratum=stratum,
                trials=cell.trials,
                tallies=[
                    (item, digest.hex(), tally.samples, tally.first)
                    for item, tallies in cell.items.items()
                    for digest, tally in tallies.items()
                ],
            )
            for group, stratum, cell in self
        ]

    @classmethod
    def from_records(cls, records: list[CellRecord]) -> UniquenessTable:
        table = cls()
        for record in records:
            cell = table.cell(Group(record.variant, record.subject, record.dtype, record.property), record.stratum)
            cell.trials += record.trials
            for item, digest, count, first in record.tallies:
                tallies, key = cell.items.setdefault(item, {}), bytes.fromhex(digest)
                tally = Tally(count, first)
                tallies[key] = tallies[key] + tally if key in tallies else tally
        return table

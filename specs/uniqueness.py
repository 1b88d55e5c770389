"""Counting distinct results. Counters merge in any order, and grow with distinct digests, not with samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from specs.job import Dtype, Part, Property
from specs.shapes import Shape
from specs.unit import Group


class Sighting(NamedTuple):
    """Where a digest was seen. Sightings are ordered, so that 'the first' is the same however counters were merged."""

    trial: int
    stress: str
    unit: int
    attempt: int
    device: str


class Tally(NamedTuple):
    count: int
    first: Sighting

    def __add__(self, other: object) -> Tally:
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(self.count + other.count, min(self.first, other.first))


class Cell:
    """The counters of one group in one stratum. An item is one thing compared with itself: a row; 0 for the whole."""

    def __init__(self) -> None:
        self.trials = 0
        self.items: dict[int, dict[bytes, Tally]] = {}

    def add(self, digest: bytes, seen: Sighting, item: int = 0) -> bool:
        """Count one sample, 16 bytes of digest; True if its item had not shown this digest here before."""
        tallies = self.items.get(item)
        if tallies is None:
            tallies = self.items[item] = {}
        known = tallies.get(digest)
        if known is None:
            tallies[digest] = Tally(1, seen)
            return True
        tallies[digest] = Tally(known[0] + 1, known[1] if known[1] <= seen else seen)
        return False

    def merge(self, other: Cell) -> None:
        self.trials += other.trials
        for item, theirs in other.items.items():
            ours = self.items.setdefault(item, {})
            for digest, tally in theirs.items():
                ours[digest] = ours[digest] + tally if digest in ours else tally

    @property
    def total(self) -> int:
        return sum(tally.count for tallies in self.items.values() for tally in tallies.values())

    @property
    def unique(self) -> int:
        """Distinct digests of the item that has most of them."""
        return max((len(tallies) for tallies in self.items.values()), default=0)

    @property
    def flips(self) -> int:
        """Samples that are not their item's most frequent result."""
        return sum(
            sum(tally.count for tally in tallies.values()) - max(tally.count for tally in tallies.values())
            for tallies in self.items.values()
        )

    def pair(self) -> tuple[int, bytes, bytes] | None:
        """The item that parted first, with its first two distinct digests in order of sighting; None if none did."""
        best: tuple[Sighting, int, bytes, bytes] | None = None
        for item, tallies in self.items.items():
            if len(tallies) > 1:
                first, second = sorted(tallies, key=lambda digest: (tallies[digest].first, digest))[:2]
                best = min(best or (tallies[second].first, item, first, second), (tallies[second].first, item, first, second))
        return None if best is None else best[1:]


class CellRecord(Part):
    """A cell as it is sent and stored."""

    variant: str
    shape: Shape
    dtype: Dtype
    property: Property
    stratum: str
    trials: int
    tallies: list[tuple[int, str, int, Sighting]]
    """(item, digest in hex, count, first sighting)"""


class UniquenessTable:
    """Cells by (group, stratum). `merge` is associative and commutative."""

    def __init__(self) -> None:
        self._cells: dict[tuple[Group, str], Cell] = {}

    def cell(self, group: Group, stratum: str) -> Cell:
        key = (group, stratum)
        if key not in self._cells:
            self._cells[key] = Cell()
        return self._cells[key]

    def strata(self, group: Group) -> dict[str, Cell]:
        return {stratum: cell for (owner, stratum), cell in self._cells.items() if owner == group}

    def __iter__(self) -> Iterator[tuple[Group, str, Cell]]:
        for (group, stratum), cell in self._cells.items():
            yield group, stratum, cell

    def merge(self, other: UniquenessTable) -> None:
        for group, stratum, cell in other:
            self.cell(group, stratum).merge(cell)

    def records(self) -> list[CellRecord]:
        return [
            CellRecord(
                variant=group.variant,
                shape=group.shape,
                dtype=group.dtype,
                property=group.property,
                stratum=stratum,
                trials=cell.trials,
                tallies=[
                    (item, digest.hex(), tally.count, tally.first)
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
            cell = table.cell(Group(record.variant, record.shape, record.dtype, record.property), record.stratum)
            cell.trials += record.trials
            for item, digest, count, first in record.tallies:
                tallies, key = cell.items.setdefault(item, {}), bytes.fromhex(digest)
                tally = Tally(count, first)
                tallies[key] = tallies[key] + tally if key in tallies else tally
        return table

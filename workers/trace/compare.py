"""The operation to blame for two answers that should have been equal. Pure: traces in, a parting out.

An operation is to blame if its inputs were equal and its output was not, *and* the difference is what the answers then
differed by. So differences are followed: a row's digest in one trace and in the other is a pair; a pair that differs
has one operation where it came from, its root; and what reads the pair and gives another that differs passes the root
on. Where several roots meet, the one that ran first is kept. The root of the first pair of sampled tokens or logprobs
that differs is the answer. What varies beside it, in other rows of the batch, in rows that nobody reads or in bits that
are rounded away, has no path to there.

Rows are aligned by what was computed, not by index: the row of a token in its sequence, together with the rows whose
latents its attention read, which may be of other sequences where a prefix was shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workers.trace.trace import COLLECTIVES, Digests, Instance, TracedOp, TracedStep

Events = NDArray[np.int64]
Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Parting:
    """The first operation with equal inputs and unequal output, of those that led to the difference."""

    rank: int
    steps: tuple[int, int]
    """Forward passes of either trace, counted from 0."""
    rows: tuple[int, int]
    """Of the steps' tokens."""
    labels: tuple[str, str]
    position: int
    """Of the token, in its sequence."""
    ops: tuple[TracedOp, TracedOp]
    inputs_equal: bool
    """False where an input differed that no traced operation had made: then the difference is from before this one."""
    weights_equal: bool
    sampled_at: int
    """Position whose sampled token, or its logprob, is the first that differs."""


@dataclass(frozen=True)
class _Root:
    order: tuple[int, int, int]
    """Step, place among the rank's operations, rank."""
    rank: int
    inputs_equal: bool
    ops: tuple[TracedOp, TracedOp]
    events: tuple[int, int]


def first_parting(first: Instance, second: Instance) -> Parting | None:
    """Where two answers parted; None where all sampled tokens and logprobs that both have are equal.

    Raises ValueError for a label that is not in its trace.
    """
    one, two = _Lineage(first), _Lineage(second)
    target = _first_difference(one, two)
    if target is None:
        return None
    pairs = _ancestry(one, two, target)
    search = _Search(one, two, pairs)
    last = one.place(target[0])[0]
    for step in range(last + 1):
        search.step(step)
    root = search.roots_of[target]
    (step, row), (other_step, other_row) = one.place(root.events[0]), two.place(root.events[1])
    steps = one.steps[0][step], two.steps[0][other_step]
    return Parting(
        rank=root.rank,
        steps=(step, other_step),
        rows=(row, other_row),
        labels=(
            steps[0].labels[steps[0].sequence_of(row)],
            steps[1].labels[steps[1].sequence_of(other_row)],
        ),
        position=int(steps[0].positions[row]),
        ops=root.ops,
        inputs_equal=root.inputs_equal,
        weights_equal=root.ops[0].weights == root.ops[1].weights,
        sampled_at=one.position(target[0]),
    )


class _Lineage:
    """The rows of one trace as events, numbered in order, and which of them each one's attention reads."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.steps = [trace.steps for trace in instance.ranks]
        steps = self.steps[0]
        self._bases = np.cumsum([0, *(step.count for step in steps)])
        self._reads: dict[tuple[int, int], Events] = {}
        page_size = instance.ranks[0].page_size
        slots = 1 + max(int(step.slots.max()) for step in steps) if steps else 0
        written = np.full(slots, -1, dtype=np.int64)
        for number, step in enumerate(steps):
            written[step.slots] = self._bases[number] + np.arange(step.count)
            for sequence, length in enumerate(step.lengths):
                positions = np.arange(length)
                pages = step.page_tables[sequence, positions // page_size].astype(np.int64)
                self._reads[number, sequence] = written[pages * page_size + positions % page_size]

    def place(self, event: int) -> tuple[int, int]:
        """Step and row."""
        step = int(np.searchsorted(self._bases, event, side="right")) - 1
        return step, event - int(self._bases[step])

    def event(self, step: int, row: int) -> int:
        return int(self._bases[step]) + row

    def position(self, event: int) -> int:
        step, row = self.place(event)
        return int(self.steps[0][step].positions[row])

    def reads(self, event: int) -> Events:
        """Events of positions 0 up to its own."""
        step, row = self.place(event)
        traced = self.steps[0][step]
        return self._reads[step, traced.sequence_of(row)][: int(traced.positions[row]) + 1]

    def sampled(self) -> dict[int, tuple[int, bytes]]:
        """Of each position whose logits were sampled, the event and the digest of what came of it."""
        found: dict[int, tuple[int, bytes]] = {}
        seen = False
        for number, step in enumerate(self.steps[0]):
            if step.call != self.instance.call or self.instance.label not in step.labels:
                continue
            seen = True
            op = step.by_name.get("sample")
            if op is None:
                continue
            assert op.tokens is not None
            sequence = step.labels.index(self.instance.label)
            for place, row in enumerate(op.tokens):
                if step.starts[sequence] <= row < step.starts[sequence + 1]:
                    found[int(step.positions[row])] = self.event(number, int(row)), op.output[place].tobytes()
        if not seen:
            raise ValueError(f"no request {self.instance.label!r} in call {self.instance.call} of the trace")
        return found


def _first_difference(one: _Lineage, two: _Lineage) -> tuple[int, int] | None:
    mine, theirs = one.sampled(), two.sampled()
    for position in sorted(mine.keys() & theirs.keys()):
        if mine[position][1] != theirs[position][1]:
            return mine[position][0], theirs[position][0]
    return None


def _ancestry(one: _Lineage, two: _Lineage, target: tuple[int, int]) -> set[tuple[int, int]]:
    """All pairs of events that the target's attention could read, directly or not."""
    found, waiting = {target}, [target]
    while waiting:
        pair = waiting.pop()
        both = zip(one.reads(pair[0]).tolist(), two.reads(pair[1]).tolist(), strict=False)
        new = set(both) - found
        found |= new
        # What a row of a step reads, the last of the new ones in the same steps reads as well.
        latest = {(one.place(a)[0], two.place(b)[0]): (a, b) for a, b in sorted(new)}
        waiting += latest.values()
    return found


@dataclass
class _Search:
    """Follows differences through the steps of the first trace, in its order."""

    one: _Lineage
    two: _Lineage
    pairs: set[tuple[int, int]]
    roots_of: dict[tuple[int, int], _Root] = field(default_factory=dict)
    """Of the sampled tokens of each pair of events."""

    def __post_init__(self) -> None:
        self._known: dict[Pair, _Root] = {}
        self._latents: dict[tuple[int, str], dict[tuple[int, int], _Root]] = {}
        self._by_step: dict[int, list[tuple[int, int]]] = {}
        for pair in sorted(self.pairs):
            self._by_step.setdefault(self.one.place(pair[0])[0], []).append(pair)

    def step(self, number: int) -> None:
        pairs = self._by_step.get(number)
        if not pairs:
            return
        by_other: dict[int, list[tuple[int, int]]] = {}
        for pair in pairs:
            by_other.setdefault(self.two.place(pair[1])[0], []).append(pair)
        parts = [list(_to_collectives(rank[number].ops)) for rank in self.one.steps]
        for group in zip(*parts, strict=True):
            for rank, ops in enumerate(group):
                for op in ops:
                    if op.kind not in COLLECTIVES:
                        self._each(number, by_other, [(rank, op)])
            together = [(rank, ops[-1]) for rank, ops in enumerate(group) if ops and ops[-1].kind in COLLECTIVES]
            if together:
                self._each(number, by_other, together)

    def _each(
        self, number: int, by_other: dict[int, list[tuple[int, int]]], members: Sequence[tuple[int, TracedOp]]
    ) -> None:
        """One operation, of one rank or of all that take part, on all pairs of rows."""
        for other, pairs in by_other.items():
            found = [
                _Both(rank, op, self.one.steps[rank][number], match, self.two.steps[rank][other])
                for rank, op in members
                if (match := self.two.steps[rank][other].by_name.get(op.name)) is not None
            ]
            if not found:
                continue
            rows = [(self.one.place(a)[1], self.two.place(b)[1]) for a, b in pairs]
            for both in found:
                for index in both.differing(rows):
                    self._spread(number, both, found, pairs[index], rows[index])

    def _spread(
        self, number: int, both: _Both, members: Sequence[_Both], pair: tuple[int, int], rows: tuple[int, int]
    ) -> None:
        given = [entry for member in members for entry in member.inputs(rows)]
        roots = [self._known[entry] for entry in given if entry in self._known]
        if both.op.kind == "attention":
            roots += self._latent_roots(both, pair)
        if roots:
            root = min(roots, key=lambda found: found.order)
        else:
            order = number, both.step.ops.index(both.op), both.rank
            root = _Root(order, both.rank, not given, (both.op, both.match), pair)
        for entry in both.outputs(rows):
            self._known.setdefault(entry, root)
        if both.op.name.endswith(".latent"):
            layer = both.op.name.removesuffix(".latent")
            self._latents.setdefault((both.rank, layer), {})[pair] = root
        if both.op.kind == "sampling":
            self.roots_of.setdefault(pair, root)

    def _latent_roots(self, both: _Both, pair: tuple[int, int]) -> list[_Root]:
        known = self._latents.get((both.rank, both.op.name.removesuffix(".attention")))
        if not known:
            return []
        read = zip(self.one.reads(pair[0]).tolist(), self.two.reads(pair[1]).tolist(), strict=False)
        return [known[entry] for entry in read if entry in known]


@dataclass(frozen=True, eq=False)
class _Both:
    """One operation of one rank, in both traces."""

    rank: int
    op: TracedOp
    step: TracedStep
    match: TracedOp
    other: TracedStep

    def differing(self, rows: Sequence[tuple[int, int]]) -> list[int]:
        """Of pairs of token rows, the indices of those whose outputs differ."""
        mine, theirs = (
            op.places(step.count)[[row[side] for row in rows]]
            for side, (op, step) in enumerate(((self.op, self.step), (self.match, self.other)))
        )
        seen = np.flatnonzero((mine >= 0) & (theirs >= 0))
        first = self.op.rows(self.op.output, self.step.count)[mine[seen]]
        second = self.match.rows(self.match.output, self.other.count)[theirs[seen]]
        return list(seen[(first != second).any(axis=1)])

    def inputs(self, rows: tuple[int, int]) -> list[Pair]:
        return [
            entry
            for mine, theirs in zip(self.op.inputs, self.match.inputs, strict=True)
            for entry in self._pairs(mine, theirs, rows)
        ]

    def outputs(self, rows: tuple[int, int]) -> list[Pair]:
        return self._pairs(self.op.output, self.match.output, rows)

    def _pairs(self, mine: Digests, theirs: Digests, rows: tuple[int, int]) -> list[Pair]:
        """The digests of one row in both traces, where they differ."""
        places = self.op.places(self.step.count)[rows[0]], self.match.places(self.other.count)[rows[1]]
        if min(places) < 0:
            return []
        first = self.op.rows(mine, self.step.count)[places[0]].reshape(-1, 2)
        second = self.match.rows(theirs, self.other.count)[places[1]].reshape(-1, 2)
        return [(a.tobytes(), b.tobytes()) for a, b in zip(first, second, strict=True) if (a != b).any()]


def _to_collectives(ops: Sequence[TracedOp]) -> Iterator[list[TracedOp]]:
    """The operations of one rank, cut behind each that all ranks do together."""
    part: list[TracedOp] = []
    for op in ops:
        part.append(op)
        if op.kind in COLLECTIVES:
            yield part
            part = []
    yield part

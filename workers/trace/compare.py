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

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

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
        self._bases = np.cumsum([0, *(step.count for step in steps)]).tolist()
        self._places = [(number, row) for number, step in enumerate(steps) for row in range(step.count)]
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
        return self._places[event]

    def event(self, step: int, row: int) -> int:
        return int(self._bases[step]) + row

    def position(self, event: int) -> int:
        step, row = self.place(event)
        return int(self.steps[0][step].positions[row])

    def reads(self, event: int) -> Events:
        """Events of positions 0 up to its own."""
        step, row = self.place(event)
        return self.sequence_reads(event)[: int(self.steps[0][step].positions[row]) + 1]

    def sequence_reads(self, event: int) -> Events:
        """Those of the last row of its sequence in its step, at whose positions those of the others are too."""
        step, row = self.place(event)
        return self._reads[step, self.steps[0][step].sequence_of(row)]

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


@dataclass(frozen=True, eq=False)
class _Aligned:
    """Pairs of events of one step in either trace, and their rows there."""

    step: int
    other: int
    pairs: list[tuple[int, int]]
    rows: tuple[Events, Events]


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
        self._by_step: dict[int, dict[int, list[tuple[int, int]]]] = {}
        for pair in sorted(self.pairs):
            step, other = self.one.place(pair[0])[0], self.two.place(pair[1])[0]
            self._by_step.setdefault(step, {}).setdefault(other, []).append(pair)

    def step(self, number: int) -> None:
        if number not in self._by_step:
            return
        aligned = [
            _Aligned(number, other, pairs, (self._rows(self.one, pairs, 0), self._rows(self.two, pairs, 1)))
            for other, pairs in self._by_step[number].items()
        ]
        parts = [list(_to_collectives(rank[number].ops)) for rank in self.one.steps]
        for group in zip(*parts, strict=True):
            for rank, ops in enumerate(group):
                for op in ops:
                    if op.kind not in COLLECTIVES:
                        self._each(aligned, [(rank, op)])
            together = [(rank, ops[-1]) for rank, ops in enumerate(group) if ops and ops[-1].kind in COLLECTIVES]
            if together:
                self._each(aligned, together)

    @staticmethod
    def _rows(lineage: _Lineage, pairs: list[tuple[int, int]], side: int) -> Events:
        return np.array([lineage.place(pair[side])[1] for pair in pairs])

    def _each(self, aligned: list[_Aligned], members: Sequence[tuple[int, TracedOp]]) -> None:
        """One operation, of one rank or of all that take part, on all pairs of rows."""
        for at in aligned:
            found = [
                _Both(rank, op, self.one.steps[rank][at.step], match, self.two.steps[rank][at.other], at.rows)
                for rank, op in members
                if (match := self.two.steps[rank][at.other].by_name.get(op.name)) is not None
            ]
            parted = [both.differing() for both in found]
            indices = np.unique(np.concatenate(parted)) if parted else np.empty(0, dtype=np.int64)
            if not len(indices):
                continue
            of_members = [both.inputs(indices) for both in found]
            given = [list(itertools.chain(*each)) for each in zip(*of_members, strict=True)]
            for both, differing in zip(found, parted, strict=True):
                self._spread(both, at, indices, given, set(differing.tolist()))

    def _spread(
        self, both: _Both, at: _Aligned, indices: Events, given: Sequence[list[Pair]], differing: set[int]
    ) -> None:
        """Passes roots on through one rank's operation. Of each of ``indices`` its inputs that differ are ``given``."""
        op, read = both.op, self._read(both) if both.op.kind == "attention" else None
        latents = None
        if op.name.endswith(".latent"):
            latents = self._latents.setdefault((both.rank, op.name.removesuffix(".latent")), {})
        order = at.step, both.step.ops.index(op), both.rank
        for index, inputs, outputs in zip(indices.tolist(), given, both.outputs(indices), strict=True):
            if index not in differing:
                continue
            pair = at.pairs[index]
            roots = [self._known[entry] for entry in inputs if entry in self._known]
            if read is not None and (latent := read(pair)) is not None:
                roots.append(latent)
            if roots:
                root = min(roots, key=lambda found: found.order)
            else:
                root = _Root(order, both.rank, not inputs, (op, both.match), pair)
            for entry in outputs:
                self._known.setdefault(entry, root)
            if latents is not None:
                latents[pair] = root
            if op.kind == "sampling":
                self.roots_of.setdefault(pair, root)

    def _read(self, both: _Both) -> Callable[[tuple[int, int]], _Root | None]:
        """Of a pair of rows, the first root of all latents that its attention reads."""
        known = self._latents.get((both.rank, both.op.name.removesuffix(".attention")), {})
        up_to: dict[tuple[int, int], list[_Root | None]] = {}

        def first_of(pair: tuple[int, int]) -> _Root | None:
            (_, row), (_, other_row) = self.one.place(pair[0]), self.two.place(pair[1])
            sequences = both.step.sequence_of(row), both.other.sequence_of(other_row)
            if sequences not in up_to:
                mine, theirs = self.one.sequence_reads(pair[0]), self.two.sequence_reads(pair[1])
                read = zip(mine.tolist(), theirs.tolist(), strict=False)
                up_to[sequences] = list(itertools.accumulate(map(known.get, read), _earlier))
            return up_to[sequences][min(self.one.position(pair[0]), self.two.position(pair[1]))]

        return first_of if known else lambda _: None


def _earlier(one: _Root | None, other: _Root | None) -> _Root | None:
    return min((root for root in (one, other) if root is not None), key=lambda root: root.order, default=None)


@dataclass(frozen=True, eq=False)
class _Both:
    """One operation of one rank, in both traces, and the pairs of token rows that are looked at."""

    rank: int
    op: TracedOp
    step: TracedStep
    match: TracedOp
    other: TracedStep
    rows: tuple[Events, Events]

    @cached_property
    def _places(self) -> tuple[Events, Events]:
        """Of the pairs' tokens in the operation's rows; -1 for those that it did not see."""
        mine, theirs = self.rows
        return self.op.places(self.step.count)[mine], self.match.places(self.other.count)[theirs]

    def differing(self) -> Events:
        """Indices of the pairs whose outputs differ."""
        mine, theirs = self._places
        seen = np.flatnonzero((mine >= 0) & (theirs >= 0))
        first = self.op.rows(self.op.output, self.step.count)[mine[seen]]
        second = self.match.rows(self.match.output, self.other.count)[theirs[seen]]
        indices: Events = seen[(first != second).any(axis=1)]
        return indices

    def inputs(self, indices: Events) -> list[list[Pair]]:
        """Of each of these pairs of rows, the digests in both traces of what differs in the inputs."""
        found: list[list[Pair]] = [[] for _ in indices]
        for mine, theirs in zip(self.op.inputs, self.match.inputs, strict=True):
            for entries, more in zip(found, self._pairs(mine, theirs, indices), strict=True):
                entries += more
        return found

    def outputs(self, indices: Events) -> list[list[Pair]]:
        """Likewise of the outputs."""
        return self._pairs(self.op.output, self.match.output, indices)

    def _pairs(self, mine: Digests, theirs: Digests, indices: Events) -> list[list[Pair]]:
        places, others = (side[indices] for side in self._places)
        seen = np.flatnonzero((places >= 0) & (others >= 0))
        first = self.op.rows(mine, self.step.count)[places[seen]].reshape(len(seen), -1, 2)
        second = self.match.rows(theirs, self.other.count)[others[seen]].reshape(len(seen), -1, 2)
        rows, columns = np.nonzero((first != second).any(axis=2))
        found: list[list[Pair]] = [[] for _ in indices]
        entries = zip(_bytes(first[rows, columns]), _bytes(second[rows, columns]), strict=True)
        for row, entry in zip(seen[rows].tolist(), entries, strict=True):
            found[row].append(entry)
        return found


def _bytes(digests: Digests) -> list[bytes]:
    memory = digests.tobytes()
    return [memory[start : start + 16] for start in range(0, len(memory), 16)]


def _to_collectives(ops: Sequence[TracedOp]) -> Iterator[list[TracedOp]]:
    """The operations of one rank, cut behind each that all ranks do together."""
    part: list[TracedOp] = []
    for op in ops:
        part.append(op)
        if op.kind in COLLECTIVES:
            yield part
            part = []
    yield part

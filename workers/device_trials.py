"""Trials on a GPU: results are digested where they are, beside the next launch, and read back once at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specs.unit import KernelUnit
from workers.graphs import capture
from workers.ledger import Ledger
from workers.observe import DeviceObserver
from workers.problem import Problem
from workers.stress import Bound, Stressed
from workers.trials import batches

GRAPH_TRIALS = 100
"""Launches in one CUDA graph. The first trials of a unit, and what is left over, are launched one by one."""
EAGER_TRIALS = 20


def repeats(unit: KernelUnit, stressed: Stressed, problem: Problem, ledger: Ledger) -> None:
    """The same product again and again; the whole output is one sample."""
    watched = _Watched(unit, stressed, problem)
    graphs = 0 if stressed.one_by_one else max(0, unit.trials - EAGER_TRIALS) // GRAPH_TRIALS
    eager = unit.trials - graphs * GRAPH_TRIALS
    watched.eagerly(range(eager))
    if graphs:
        watched.by_graph(eager, graphs)
    watched.read(ledger)


def batch_rows(unit: KernelUnit, stressed: Stressed, problem: Problem, ledger: Ledger) -> None:
    """Batches of different size cut from one pool of rows; each row is a sample."""
    observer = DeviceObserver()
    seen: list[_Batch] = []
    for drawn in batches(unit):
        batch = _Batch(unit, stressed, problem, observer, *drawn)
        if seen:
            batch.hold_against(seen[0])
        seen.append(batch)
    torch.cuda.synchronize()
    for batch in seen:
        ledger.begin_trial()
        for row, words in enumerate(batch.digests.cpu().numpy()):
            found = words.tobytes()
            first = ledger.count(found, batch.trial, batch.offset + row)
            if first is not None and batch.differing is not None and row == int(batch.differing[0]):
                ledger.keep(first, batch.differing[1])
                ledger.keep(found, batch.differing[2])


class _Watched:
    """Launches take turns between two outputs: while one is digested on a second stream, the other is written."""

    def __init__(self, unit: KernelUnit, stressed: Stressed, problem: Problem) -> None:
        self._unit, self._stressed, self._problem = unit, stressed, problem
        self._observer = DeviceObserver()
        self._beside = torch.cuda.Stream()
        self._bound = [self._bind(turn) for turn in range(2)]
        self._digests = torch.zeros(unit.trials, 2, dtype=torch.int64, device=self._bound[0].out.device)
        self._first: torch.Tensor | None = None
        self._kept = torch.zeros_like(self._bound[0].out)
        self._taken = torch.zeros(1, dtype=torch.int32, device=self._kept.device)

    def eagerly(self, trials: Sequence[int]) -> None:
        """One launch after the other; ``trials`` count from the unit's first."""
        self._beside.wait_stream(torch.cuda.current_stream())
        looked_at: list[torch.cuda.Event | None] = [None, None]
        for trial in trials:
            turn = trial % 2
            if self._stressed.rebinds:
                # The second stream may not have read the last one yet.
                self._bound[turn].out.record_stream(self._beside)
                self._bound[turn] = self._bind(self._unit.first_trial + trial)
            self._turn(turn, looked_at, self._unit.first_trial + trial, self._digests[trial], trial + 1)
        torch.cuda.current_stream().wait_stream(self._beside)

    def by_graph(self, begin: int, graphs: int) -> None:
        """``graphs`` replays of one graph, whose digests are moved on to their trials' places after each.

        A target that can't be captured is launched one by one instead.
        """
        ring = torch.zeros(GRAPH_TRIALS, 2, dtype=torch.int64, device=self._kept.device)

        def trials() -> None:
            ring.zero_()
            self._beside.wait_stream(torch.cuda.current_stream())
            looked_at: list[torch.cuda.Event | None] = [None, None]
            for place in range(GRAPH_TRIALS):
                self._turn(place % 2, looked_at, self._unit.first_trial + begin + place, ring[place], place + 1)
            torch.cuda.current_stream().wait_stream(self._beside)

        graph = capture(trials)
        if graph is None:
            self.eagerly(range(begin, begin + graphs * GRAPH_TRIALS))
            return
        for replay in range(graphs):
            graph.replay()
            start = begin + replay * GRAPH_TRIALS
            self._digests[start : start + GRAPH_TRIALS].copy_(ring)
        torch.cuda.synchronize()

    def read(self, ledger: Ledger) -> None:
        """Wait for the device and count."""
        torch.cuda.synchronize()
        ledger.repeats(self._digests.cpu().numpy(), self._unit.first_trial)
        assert self._first is not None
        for sample in [self._first] + ([self._kept] if int(self._taken) else []):
            again = torch.zeros(2, dtype=torch.int64, device=sample.device)
            self._observer.digest(sample, again)
            ledger.keep(again.cpu().numpy().tobytes(), sample)

    def _turn(
        self, turn: int, looked_at: list[torch.cuda.Event | None], trial: int, digest: torch.Tensor, mark: int
    ) -> None:
        stream, bound = torch.cuda.current_stream(), self._bound[turn]
        before = looked_at[turn]
        if before is not None:
            stream.wait_event(before)
        self._stressed.run(bound, trial)
        written: torch.cuda.Event = stream.record_event()
        with torch.cuda.stream(self._beside):
            self._beside.wait_event(written)
            self._observer.digest(bound.out, digest)
            if self._first is None:
                self._first = bound.out.clone()
                self._reference = digest
            else:
                self._observer.keep_if_different(digest, self._reference, bound.out, self._kept, self._taken, mark)
            looked_at[turn] = self._beside.record_event()

    def _bind(self, trial: int) -> Bound:
        return self._stressed.bind(self._problem.inputs, self._problem.output(self._unit.dtype), trial)


class _Batch:
    """One batch: the digests of its rows, and the first row that differs from the whole pool's."""

    def __init__(
        self,
        unit: KernelUnit,
        stressed: Stressed,
        problem: Problem,
        observer: DeviceObserver,
        trial: int,
        offset: int,
        rows: int,
    ) -> None:
        self.trial, self.offset = trial, offset
        bound = stressed.bind(problem.pool.rows(offset, offset + rows), problem.output(unit.dtype, rows), trial)
        stressed.run(bound, trial)
        self.out: torch.Tensor | None = bound.out
        self.digests = torch.zeros(rows, 2, dtype=torch.int64, device=bound.out.device)
        observer.digest_rows(bound.out, self.digests)
        self.differing: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def hold_against(self, whole: _Batch) -> None:
        """Copies the pair of rows that a witness would need, and lets the output go."""
        assert self.out is not None and whole.out is not None
        rows = self.digests.shape[0]
        there = whole.digests[self.offset : self.offset + rows]
        row = (self.digests != there).any(dim=1).to(torch.int8).argmax()
        mine, other = self.out.index_select(0, row[None]), whole.out.index_select(0, (row + self.offset)[None])
        self.differing = (row, other, mine)
        self.out = None

"""Runs batches again, traced, until two answers that should be equal part; then again to keep the operation's tensors.

All ranks call the same things in the same order. Rank 0 has all traces, compares them, and tells the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from workers.engine.modes import Generator, Sample, Trial, play
from workers.engine.request import Completion, Request
from workers.model.sharding import Ranks
from workers.trace.capture import Row, row_of, same_bits
from workers.trace.compare import Parting, first_parting
from workers.trace.recorder import Captured, TraceRecorder, Wish
from workers.trace.trace import COLLECTIVES, Instance, Trace

REPLAYS = 8
"""Times that the batches are run again to see a flip, and then again to see it in the operation that was found."""


@dataclass(frozen=True)
class Answer:
    """A sample, in the batch that it was seen in again."""

    trial: Trial
    sample: Sample

    @property
    def label(self) -> str:
        return self.trial.rows[self.sample.row].request.label


@dataclass(frozen=True, eq=False)
class Found:
    """Two answers, where they parted, and the blamed rank's tensors of both, on that rank alone."""

    answers: tuple[Answer, Answer]
    parting: Parting
    captured: tuple[Captured, Captured] | None
    rows: tuple[Row, Row] | None


class Replayer:
    """Of one rank. ``engine`` tells ``recorder`` of all it does, and its model does too."""

    def __init__(self, engine: Generator, recorder: TraceRecorder, ranks: Ranks) -> None:
        self._engine, self._recorder, self._ranks = _Calls(engine, recorder), recorder, ranks

    def traced(self, trial: Trial) -> tuple[list[Sample], list[Trace]]:
        """A batch run once with a trace, from an empty cache; on rank 0 the traces of all ranks, elsewhere none."""
        self._engine.flush_cache()
        self._recorder.trace()
        samples = play(trial, self._engine)
        return samples, self.to_rank_0(self._recorder.finish())

    def search(self, trials: Sequence[Trial], item_of: Callable[[Sample], Hashable | None]) -> Found | None:
        """Where two samples with one item parted, in repeats of these batches; None where none did.

        ``item_of`` is None for samples that are not looked at.
        """
        first: dict[Hashable, tuple[Answer, list[Trace]]] = {}
        for number in range(REPLAYS * len(trials)):
            trial = trials[number % len(trials)]
            samples, traces = self.traced(trial)
            found: tuple[tuple[Answer, Answer], Parting] | None = None
            if self._ranks.rank == 0:
                found = _parted(first, trial, samples, traces, item_of)
            found = self.from_rank_0(found)
            if found is not None:
                return self._kept(*found)
        return None

    def from_rank_0(self, value: Any) -> Any:
        """What rank 0 has, on all."""
        if self._ranks.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self._ranks.device)
        return values[0]

    def to_rank_0(self, value: Any) -> list[Any]:
        """What every rank has, on rank 0; elsewhere nothing."""
        if self._ranks.size == 1:
            return [value]
        values: list[Any] | None = [None] * self._ranks.size if self._ranks.rank == 0 else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def _kept(self, answers: tuple[Answer, Answer], parting: Parting) -> Found:
        """Repeat both batches until the operation parts with equal inputs, and keep its tensors of then."""
        captured: tuple[Captured, Captured] | None = None
        rows: tuple[Row, Row] | None = None
        for _ in range(REPLAYS):
            pair = [
                self._capture(answer.trial, Wish(step, op.name))
                for answer, step, op in zip(answers, parting.steps, parting.ops, strict=True)
            ]
            own = [row_of(one, row) for one, row in zip(pair, parting.rows, strict=True)]
            state = _state(own)
            if self._is_it(self.from_rank_0(self.to_rank_0(state)), parting):
                if self._ranks.rank == parting.rank:
                    assert pair[0] is not None and pair[1] is not None and own[0] is not None and own[1] is not None
                    captured, rows = (pair[0], pair[1]), (own[0], own[1])
                break
        return Found(answers, parting, captured, rows)

    def _capture(self, trial: Trial, wish: Wish) -> Captured | None:
        self._engine.flush_cache()
        self._recorder.capture(wish)
        play(trial, self._engine)
        self._recorder.finish()
        return self._recorder.captured

    @staticmethod
    def _is_it(states: list[tuple[bool, bool]], parting: Parting) -> bool:
        """``states``: of each rank, whether its inputs were equal, and whether its outputs were not."""
        concerned = states if parting.ops[0].kind in COLLECTIVES else [states[parting.rank]]
        return all(equal for equal, _ in concerned) and states[parting.rank][1]


class _Calls:
    """The engine, with every call of ``generate`` told to the recorder."""

    def __init__(self, engine: Generator, recorder: TraceRecorder) -> None:
        self._engine, self._recorder = engine, recorder

    def generate(self, requests: list[Request]) -> list[Completion]:
        self._recorder.begin_call()
        return self._engine.generate(requests)

    def flush_cache(self) -> None:
        self._engine.flush_cache()


def _parted(
    first: dict[Hashable, tuple[Answer, list[Trace]]],
    trial: Trial,
    samples: Sequence[Sample],
    traces: list[Trace],
    item_of: Callable[[Sample], Hashable | None],
) -> tuple[tuple[Answer, Answer], Parting] | None:
    """Hold a batch's samples against the first of their items, which ``first`` remembers."""
    for sample in samples:
        item = item_of(sample)
        if item is None:
            continue
        answer = Answer(trial, sample)
        earlier, before = first.setdefault(item, (answer, traces))
        if earlier.sample.data == sample.data:
            continue
        one = Instance(before, earlier.sample.call, earlier.label)
        parting = first_parting(one, Instance(traces, sample.call, answer.label))
        if parting is not None:
            return (earlier, answer), parting
    return None


def _state(rows: Sequence[Row | None]) -> tuple[bool, bool]:
    one, other = rows
    if one is None or other is None:
        return False, False
    return same_bits(one.inputs, other.inputs), not same_bits((one.output,), (other.output,))

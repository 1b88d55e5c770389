"""The host makes the next pass ready while the device runs the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.engine.packing import LogitRows
from workers.engine.scheduler import Piece, Scheduler
from workers.engine.sequence import Sequence as Running


class Pass(Protocol):
    """One that the device was given."""

    @property
    def rows(self) -> list[LogitRows]:
        """Of each piece."""

    def found(self) -> Sequence[Sequence[float]]:
        """Token and logprob of each row. Waits for the device."""


@dataclass(frozen=True)
class Usage:
    """What a call took."""

    steps: int
    """Forward passes."""
    tokens: int
    """That went through the model, those of preempted sequences once more each time."""


def run_overlapped(
    scheduler: Scheduler, begin: Callable[[list[Piece]], Pass], stop_tokens: frozenset[int] = frozenset()
) -> Usage:
    """All passes of the scheduler's sequences, which then have their tokens and logprobs.

    Only when a pass has begun the host asks for what the one before found. Until then it does not know a sequence's
    last token, and a pass may have one token more of a sequence that has come to a stop token: what is found there is
    dropped.
    """
    steps = tokens = 0
    before: _Begun | None = None
    while pieces := scheduler.next_step():
        begun = _Begun(pieces, begin(pieces))
        if before is not None:
            before.end(stop_tokens)
        for piece in pieces:
            scheduler.computed(piece)
        begun.expect()
        scheduler.retire()
        steps += 1
        tokens += sum(piece.count for piece in pieces)
        before = begun
    if before is not None:
        before.end(stop_tokens)
    return Usage(steps, tokens)


class _Begun:
    def __init__(self, pieces: list[Piece], run: Pass) -> None:
        self._run, self._pieces = run, list(zip(pieces, run.rows, strict=True))
        self._drawing: list[tuple[Running, int]] = []
        """Sequences whose last token is a row's."""

    def expect(self) -> None:
        """From now on sequences have what is still to come."""
        for piece, rows in self._pieces:
            sequence = piece.sequence
            sequence.scored += rows.scored.stop - rows.scored.start
            if rows.draws is not None and not sequence.stopped:
                sequence.tokens.append(-1 - rows.draws)
                self._drawing.append((sequence, rows.draws))

    def end(self, stop_tokens: frozenset[int]) -> None:
        """Now it has come."""
        found = self._run.found()
        for piece, rows in self._pieces:
            piece.sequence.prompt_logprobs += [logprob for _, logprob in found[rows.scored]]
        for sequence, row in self._drawing:
            token, logprob = found[row]
            sequence.tokens[-1] = int(token)
            sequence.logprobs.append(logprob)
            sequence.stopped = token in stop_tokens

"""What one forward pass and its sampling are told, out of the pieces that the scheduler chose.

All numbers of a pass lie in one tensor of words, so that they cross to the device at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.engine.sampling import Asked, stream_key
from workers.engine.scheduler import Piece
from workers.model.step import Step, graph_length


@dataclass(frozen=True)
class Layout:
    """Where in the words each part lies."""

    starts: tuple[int, ...]
    """Of a ``Step``, as ``lengths`` and ``labels``."""
    lengths: tuple[int, ...]
    labels: tuple[str, ...]
    rows: int
    """R, of which logits are wanted."""
    drawn: int
    """D of these, whose next token is drawn."""
    page_size: int

    @property
    def parts(self) -> dict[str, slice]:
        """Each begins at an even word, so that all are aligned as kernels like it."""
        tokens = self.starts[-1]
        sizes = {
            "tokens": tokens,
            "positions": tokens,
            "slots": tokens,
            "logit_rows": self.rows,
            "given": self.rows,
            "drawn": self.drawn,
            "keys": self.drawn,
            "temperatures": self.drawn,
            "page_tables": -(-len(self.lengths) * self.pages // 2),
        }
        found, start = {}, 0
        for name, size in sizes.items():
            found[name] = slice(start, start + size)
            start += size + size % 2
        return found

    @property
    def pages(self) -> int:
        """P of the page tables: as many as in a graph of decoding."""
        return -(-graph_length(max(self.lengths)) // self.page_size)

    def cut(self, words: torch.Tensor) -> tuple[Step, Asked]:
        """Both in the memory of ``words``."""
        part = {name: words[where] for name, where in self.parts.items()}
        sequences = len(self.lengths)
        tables = part["page_tables"].view(torch.int32)[: sequences * self.pages].view(sequences, self.pages)
        step = Step(
            tokens=part["tokens"],
            positions=part["positions"],
            slots=part["slots"],
            starts=self.starts,
            lengths=self.lengths,
            page_tables=tables,
            logit_rows=part["logit_rows"],
            labels=self.labels,
        )
        return step, Asked(part["given"], part["drawn"], part["keys"], part["temperatures"].view(torch.float64))


@dataclass(frozen=True)
class LogitRows:
    """Which rows of logits are a piece's."""

    scored: slice
    """Those that score its prompt."""
    draws: int | None
    """The one that says what token comes next, if any does."""


@dataclass(frozen=True)
class PackedStep:
    words: torch.Tensor
    """(W,) int64 on the host, in memory that a GPU copies from while the host goes on, where ``pinned``."""
    layout: Layout
    rows: list[LogitRows]
    """Of each piece."""


def pack(pieces: Sequence[Piece], page_size: int, *, pinned: bool) -> PackedStep:
    """The scheduler has provided a page for every token.

    Of a token that the pass before this one samples, and that the host does not know yet, there is -1 - its row.
    """
    counts = [piece.count for piece in pieces]
    starts = np.cumsum([0, *counts])
    # Of each token: its sequence, and then how far its row is behind its position.
    owners = np.repeat(np.arange(len(pieces)), counts)
    offsets = starts[:-1] - [piece.start for piece in pieces]
    logit_rows: list[int] = []
    given: list[int] = []
    drawn: list[tuple[int, int, float]] = []
    rows = []
    for piece, offset in zip(pieces, offsets.tolist(), strict=True):
        sequence, request = piece.sequence, piece.sequence.request
        scoring, draw = sequence.wanted_rows(piece.start, piece.count)
        scored = slice(len(given), len(given) + len(scoring))
        logit_rows += [position + offset for position in scoring]
        given += [sequence.tokens[position + 1] for position in scoring]
        rows.append(LogitRows(scored, len(given) if draw else None))
        if draw:
            end = piece.start + piece.count
            if request.temperature > 0:
                drawn.append((len(given), stream_key(request.sampling_seed, end), request.temperature))
            logit_rows.append(end - 1 + offset)
            given.append(-1)
    layout = Layout(
        starts=tuple(starts.tolist()),
        lengths=tuple(piece.start + piece.count for piece in pieces),
        labels=tuple(piece.sequence.request.label for piece in pieces),
        rows=len(given),
        drawn=len(drawn),
        page_size=page_size,
    )
    words = torch.empty(layout.parts["page_tables"].stop, dtype=torch.int64, pin_memory=pinned)
    step, asked = layout.cut(words)
    tokens, positions, slots, tables = map(_array, (step.tokens, step.positions, step.slots, step.page_tables))
    tables.fill(-1)
    for index, (piece, start, length) in enumerate(zip(pieces, layout.starts, layout.lengths, strict=False)):
        in_use = -(-length // page_size)
        tokens[start : start + piece.count] = piece.sequence.tokens[piece.start : length]
        tables[index, :in_use] = piece.sequence.table[:in_use]
    positions[:] = np.arange(len(owners)) - offsets[owners]
    slots[:] = tables[owners, positions // page_size].astype(np.int64) * page_size + positions % page_size
    _array(step.logit_rows)[:] = logit_rows
    _array(asked.given)[:] = given
    if drawn:
        _array(asked.drawn)[:], _array(asked.keys)[:], _array(asked.temperatures)[:] = zip(*drawn, strict=True)
    return PackedStep(words, layout, rows)


def _array(tensor: torch.Tensor) -> NDArray[np.generic]:
    return tensor.numpy()

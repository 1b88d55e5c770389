"""The tensors of one forward pass, out of the pieces that the scheduler chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.engine.sampling import Wanted
from workers.engine.scheduler import Piece
from workers.model.step import Step


@dataclass(frozen=True)
class PackedStep:
    step: Step
    wanted: list[Wanted]
    """Of each of the step's ``logit_rows``; those of one piece follow each other."""
    scored: list[int]
    """For each piece, how many of its rows score the prompt."""
    draws: list[bool]
    """For each piece, whether one row more, its last, says what token comes next."""


def pack(pieces: Sequence[Piece], page_size: int, device: torch.device) -> PackedStep:
    """The scheduler has provided a page for every token."""
    counts = [piece.count for piece in pieces]
    starts = np.cumsum([0, *counts])
    # Of each token: its sequence, and then how far its row is behind its position.
    owners = np.repeat(np.arange(len(pieces)), counts)
    offsets = starts[:-1] - [piece.start for piece in pieces]
    packed = np.empty((3, len(owners)), dtype=np.int64)
    tokens, positions, slots = packed
    positions[:] = np.arange(len(owners)) - offsets[owners]
    lengths = [piece.start + piece.count for piece in pieces]
    in_use = [-(-length // page_size) for length in lengths]
    tables = np.full((len(pieces), max(in_use)), -1, dtype=np.int32)
    rows: list[int] = []
    wanted: list[Wanted] = []
    scored, draws = [], []
    for index, (piece, offset, start) in enumerate(zip(pieces, offsets.tolist(), starts.tolist(), strict=False)):
        sequence, end = piece.sequence, lengths[index]
        tokens[start : start + piece.count] = sequence.tokens[piece.start : end]
        tables[index, : in_use[index]] = sequence.table[: in_use[index]]
        scoring, draw = sequence.wanted_rows(piece.start, piece.count)
        rows += [position + offset for position in scoring]
        wanted += [Wanted(sequence.tokens[position + 1]) for position in scoring]
        if draw:
            request = sequence.request
            rows.append(end - 1 + offset)
            wanted.append(Wanted(None, request.temperature, request.sampling_seed, end))
        scored.append(len(scoring))
        draws.append(draw)
    slots[:] = tables[owners, positions // page_size].astype(np.int64) * page_size + positions % page_size
    on_device = torch.from_numpy(packed).to(device)
    step = Step(
        tokens=on_device[0],
        positions=on_device[1],
        slots=on_device[2],
        starts=tuple(starts.tolist()),
        lengths=tuple(lengths),
        page_tables=torch.from_numpy(tables).to(device),
        logit_rows=torch.tensor(rows, dtype=torch.int64, device=device),
        labels=tuple(piece.sequence.request.label for piece in pieces),
    )
    return PackedStep(step, wanted, scored, draws)

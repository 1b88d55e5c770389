from __future__ import annotations

import torch

from workers.engine.packing import pack
from workers.engine.request import Request
from workers.engine.sampling import stream_key
from workers.engine.scheduler import Piece
from workers.engine.sequence import Sequence


def sequence(label: str, tokens: tuple[int, ...], pages: list[int], **more: float | None) -> Sequence:
    request = Request(tokens, label, 4, **more)  # type: ignore[arg-type]
    found = Sequence(request, 0, page_size=4)
    found.table[: len(pages)] = pages
    found.held = len(pages)
    return found


def decoding(**more: float) -> Sequence:
    found = sequence("a", (1, 2, 3, 4, 5), [7, 2], sampling_seed=9, **more)
    found.tokens.append(-3)  # row 2 of the pass before finds it
    found.computed = 5
    return found


def test_sequences_are_packed_one_after_the_other() -> None:
    drawing = decoding(temperature=0.5)
    prefilling = sequence("b", tuple(range(10, 20)), [0, 3, 1], logprobs_from=6)
    packed = pack([Piece(drawing, 5, 1), Piece(prefilling, 3, 6)], 4, pinned=False)
    step, asked = packed.layout.cut(packed.words)
    assert step.tokens.tolist() == [-3, 13, 14, 15, 16, 17, 18]
    assert step.positions.tolist() == [5, 3, 4, 5, 6, 7, 8]
    assert step.slots.tolist() == [9, 3, 12, 13, 14, 15, 4]
    assert (step.starts, step.lengths, step.labels) == ((0, 1, 7), (6, 9), ("a", "b"))
    assert step.page_tables.dtype == torch.int32
    # As wide as a graph's, which is for 256 tokens.
    assert step.page_tables.shape == (2, 64)
    assert step.page_tables[:, :3].tolist() == [[7, 2, -1], [0, 3, 1]]
    assert set(step.page_tables[:, 3:].flatten().tolist()) == {-1}
    # The logits at position 5 score token 6 of b, and so on; its last token comes in a later step.
    assert step.logit_rows.tolist() == [0, 3, 4, 5, 6]
    assert asked.given.tolist() == [-1, 16, 17, 18, 19]
    assert (asked.drawn.tolist(), asked.keys.tolist()) == ([0], [stream_key(9, 6)])
    assert (asked.temperatures.tolist(), asked.temperatures.dtype) == ([0.5], torch.float64)
    assert [(rows.scored, rows.draws) for rows in packed.rows] == [(slice(0, 0), 0), (slice(1, 5), None)]


def test_the_likeliest_token_is_not_drawn() -> None:
    packed = pack([Piece(decoding(), 5, 1)], 4, pinned=False)
    step, asked = packed.layout.cut(packed.words)
    assert (step.logit_rows.tolist(), asked.given.tolist(), asked.drawn.tolist()) == ([0], [-1], [])
    assert packed.rows[0].draws == 0


def test_a_piece_in_a_prompts_middle_wants_no_logits() -> None:
    packed = pack([Piece(sequence("a", tuple(range(8)), [0, 1]), 0, 4)], 4, pinned=False)
    step, asked = packed.layout.cut(packed.words)
    assert step.logit_rows.shape == (0,)
    assert step.logit_rows.dtype == torch.int64
    assert asked.given.shape == (0,)


def test_parts_are_aligned_and_apart() -> None:
    pieces = [Piece(sequence("a", tuple(range(7)), [0, 1], logprobs_from=2, temperature=1.0), 0, 7)]
    packed = pack([*pieces, Piece(decoding(), 5, 1)], 4, pinned=False)
    parts = packed.layout.parts
    assert all(part.start % 2 == 0 for part in parts.values())
    places = [place for part in parts.values() for place in range(part.start, part.stop)]
    assert len(set(places)) == len(places) and max(places) < len(packed.words)

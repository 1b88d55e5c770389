from __future__ import annotations

import torch

from workers.engine.packing import pack
from workers.engine.request import Request
from workers.engine.sampling import Wanted
from workers.engine.scheduler import Piece
from workers.engine.sequence import Sequence

CPU = torch.device("cpu")


def sequence(label: str, tokens: tuple[int, ...], pages: list[int], **more: float | None) -> Sequence:
    request = Request(tokens, label, 4, **more)  # type: ignore[arg-type]
    found = Sequence(request, 0, page_size=4)
    found.table[: len(pages)] = pages
    found.held = len(pages)
    return found


def test_sequences_are_packed_one_after_the_other() -> None:
    decoding = sequence("a", (1, 2, 3, 4, 5), [7, 2], temperature=0.5, sampling_seed=9)
    decoding.tokens.append(6)
    decoding.computed = 5
    prefilling = sequence("b", tuple(range(10, 20)), [0, 3, 1], logprobs_from=6)
    packed = pack([Piece(decoding, 5, 1), Piece(prefilling, 3, 6)], 4, CPU)
    step = packed.step
    assert step.tokens.tolist() == [6, 13, 14, 15, 16, 17, 18]
    assert step.positions.tolist() == [5, 3, 4, 5, 6, 7, 8]
    assert step.slots.tolist() == [9, 3, 12, 13, 14, 15, 4]
    assert (step.starts, step.lengths, step.labels) == ((0, 1, 7), (6, 9), ("a", "b"))
    assert step.page_tables.tolist() == [[7, 2, -1], [0, 3, 1]]
    assert step.page_tables.dtype == torch.int32
    # The logits at position 5 score token 6 of b, and so on; its last token comes in a later step.
    assert step.logit_rows.tolist() == [0, 3, 4, 5, 6]
    assert packed.wanted == [Wanted(None, 0.5, 9, 6), *(Wanted(token) for token in (16, 17, 18, 19))]
    assert (packed.scored, packed.draws) == ([0, 4], [True, False])


def test_a_piece_in_a_prompts_middle_wants_no_logits() -> None:
    packed = pack([Piece(sequence("a", tuple(range(8)), [0, 1]), 0, 4)], 4, CPU)
    assert packed.step.logit_rows.shape == (0,)
    assert packed.step.logit_rows.dtype == torch.int64
    assert packed.wanted == []

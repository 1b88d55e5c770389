"""The engine over the nano model on a GPU: a completion's bits depend on its request alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.workers.engine.building import OPTIONS, bits
from tests.workers.engine.building import request as asked_for
from tests.workers.model.packing import DETERMINISTIC, build
from workers.engine.engine import Engine
from workers.engine.request import Request
from workers.model.model import DeepseekV3
from workers.model.sharding import Ranks

GPU = Ranks(0, 1, torch.device("cuda"))


@pytest.fixture(scope="module")
def model() -> DeepseekV3:
    return build(DETERMINISTIC, ranks=GPU)


# Of two prompts, so that neither finds the other in the prefix cache.
GREEDY = asked_for("greedy", 300, logprobs_from=250)
DRAWN = asked_for("drawn", 270, seed=50, logprobs_from=250, temperature=1.3)


@pytest.fixture(scope="module")
def alone(model: DeepseekV3) -> dict[str, tuple[bytes, bytes]]:
    """Each of the two by itself."""
    return {fixed.label: bits(Engine(model, OPTIONS).generate([fixed])[0]) for fixed in (GREEDY, DRAWN)}


# Every pair of two of the three.
@pytest.mark.parametrize(
    "chunk, neighbours, prefix_cache",
    [
        (16, 0, True),
        (16, 6, False),
        (16, 40, True),
        (100, 0, False),
        (100, 6, True),
        (100, 40, False),
        (512, 0, True),
        (512, 6, False),
        (512, 40, True),
    ],
)
def test_neighbours_chunks_and_the_cache_change_no_bit(
    model: DeepseekV3, alone: dict[str, tuple[bytes, bytes]], chunk: int, neighbours: int, prefix_cache: bool
) -> None:
    runner = Engine(model, replace(OPTIONS, chunk=chunk, prefix_cache=prefix_cache, pages=2048))
    others = [asked_for(f"other {i}", 7 + 7 * i, seed=i, arrives_at_step=i % 5) for i in range(neighbours)]
    half = neighbours // 2
    for _ in range(2):
        found = runner.generate([GREEDY, *others[:half], DRAWN, *others[half:]])
        assert {"greedy": bits(found[0]), "drawn": bits(found[half + 1])} == alone


@pytest.mark.parametrize("fixed", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_preemption_changes_no_bit(model: DeepseekV3, fixed: Request, alone: dict[str, tuple[bytes, bytes]]) -> None:
    older = asked_for("older", 400 - len(fixed.tokens), seed=3, max_new_tokens=60)
    found = Engine(model, replace(OPTIONS, pages=26)).generate([older, fixed])
    assert found[1].preemptions == 1
    assert bits(found[1]) == alone[fixed.label]


def test_decoding_and_prefilling_a_token_give_the_same_bits(model: DeepseekV3) -> None:
    runner = Engine(model, OPTIONS)
    asked = asked_for("a", max_new_tokens=12)
    decoded = runner.generate([asked])[0]
    runner.flush_cache()
    whole = Request(asked.tokens + decoded.tokens, "a", 0, logprobs_from=len(asked.tokens))
    assert runner.generate([whole])[0].prompt_logprobs.tobytes() == decoded.logprobs.tobytes()

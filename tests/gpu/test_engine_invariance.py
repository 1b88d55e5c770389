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


@pytest.fixture(scope="module", params=[0.0, 1.3], ids=["greedy", "drawn"])
def fixed(request: pytest.FixtureRequest) -> Request:
    return asked_for("fixed", 300, logprobs_from=250, temperature=request.param)


@pytest.fixture(scope="module")
def alone(model: DeepseekV3, fixed: Request) -> tuple[bytes, bytes]:
    return bits(Engine(model, OPTIONS).generate([fixed])[0])


@pytest.mark.parametrize("chunk", [16, 100, 512])
@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("neighbours", [0, 6, 40])
def test_neighbours_chunks_and_the_cache_change_no_bit(
    model: DeepseekV3, fixed: Request, alone: tuple[bytes, bytes], chunk: int, prefix_cache: bool, neighbours: int
) -> None:
    runner = Engine(model, replace(OPTIONS, chunk=chunk, prefix_cache=prefix_cache, pages=2048))
    others = [asked_for(f"other {i}", 7 + 17 * i, seed=i, arrives_at_step=i % 5) for i in range(neighbours)]
    for _ in range(2):
        found = runner.generate([*others[: neighbours // 2], fixed, *others[neighbours // 2 :]])
        assert bits(found[neighbours // 2]) == alone


def test_preemption_changes_no_bit(model: DeepseekV3, fixed: Request, alone: tuple[bytes, bytes]) -> None:
    older = asked_for("older", 100, seed=3, max_new_tokens=60)
    found = Engine(model, replace(OPTIONS, pages=26)).generate([older, fixed])
    assert found[1].preemptions == 1
    assert bits(found[1]) == alone


def test_decoding_and_prefilling_a_token_give_the_same_bits(model: DeepseekV3) -> None:
    runner = Engine(model, OPTIONS)
    asked = asked_for("a", max_new_tokens=12)
    decoded = runner.generate([asked])[0]
    runner.flush_cache()
    whole = Request(asked.tokens + decoded.tokens, "a", 0, logprobs_from=len(asked.tokens))
    assert runner.generate([whole])[0].prompt_logprobs.tobytes() == decoded.logprobs.tobytes()

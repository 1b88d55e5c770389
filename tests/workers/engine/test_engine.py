from __future__ import annotations

import numpy as np
import pytest
import torch

from specs.errors import UsageError
from tests.workers.engine.building import FLIPPING, bits, engine, model, prompt, request
from tests.workers.model.packing import DETERMINISTIC, Server
from workers.engine.engine import EngineOptions
from workers.engine.request import Request
from workers.gemm.target import Conditions
from workers.model.numerics import Numerics

TOKENS = prompt(40)


def by_hand(count: int) -> tuple[list[int], list[float]]:
    """Greedy decoding with the model alone: the prompt in one step, then token by token."""
    server = Server(model(DETERMINISTIC))
    tokens, logprobs, new = [], [], list(TOKENS)
    for _ in range(count):
        logits = server.run({"a": new})[0].double()
        new = [int(logits.argmax())]
        tokens.append(new[0])
        logprobs.append(float(torch.log_softmax(logits, 0)[new[0]].float()))
    return tokens, logprobs


def test_the_engine_decodes_as_the_model_does() -> None:
    (completion,) = engine().generate([request("a")])
    tokens, logprobs = by_hand(8)
    assert list(completion.tokens) == tokens
    assert completion.logprobs.tolist() == logprobs
    assert completion.logprobs.dtype == np.float32
    assert (completion.finish, completion.label) == ("length", "a")


def test_completions_come_in_the_order_of_requests() -> None:
    asked = [request("late", seed=1, arrives_at_step=3), request("a"), request("b", seed=2, max_new_tokens=1)]
    found = engine().generate(asked)
    assert [completion.label for completion in found] == ["late", "a", "b"]
    assert [len(completion.tokens) for completion in found] == [8, 8, 1]


def test_a_stop_token_ends_a_completion() -> None:
    tokens, _ = by_hand(8)
    stop = tokens[3]
    (completion,) = engine(stop_tokens=frozenset([stop])).generate([request("a")])
    assert list(completion.tokens) == tokens[: tokens.index(stop) + 1]
    assert completion.finish == "stop"


def test_prompt_logprobs_are_those_of_the_tokens_asked_for() -> None:
    (completion,) = engine().generate([request("a", logprobs_from=10, max_new_tokens=0)])
    logits = Server(model(DETERMINISTIC)).run({"a": list(TOKENS)}, all_rows=True).double()
    expected = torch.log_softmax(logits, 1)[torch.arange(9, 39), torch.tensor(TOKENS[10:])].float()
    assert completion.prompt_logprobs.tolist() == expected.tolist()
    assert completion.tokens == ()


def test_the_last_call_is_measured() -> None:
    runner = engine(chunk=16)
    runner.generate([request("a", max_new_tokens=3)])
    # 16, 16 and 8 tokens of the prompt, then two that were decoded; the last new one is never computed.
    assert (runner.usage.steps, runner.usage.tokens) == (5, 42)


def test_the_prefix_cache_serves_and_can_be_flushed_and_left_out() -> None:
    runner = engine()
    cached = [runner.generate([request("a")])[0].cached_tokens for _ in range(2)]
    runner.flush_cache()
    cached.append(runner.generate([request("a")])[0].cached_tokens)
    assert cached == [0, 32, 0]
    without = engine(prefix_cache=False)
    assert [without.generate([request("a")])[0].cached_tokens for _ in range(2)] == [0, 0]
    without.flush_cache()


def test_a_failed_call_leaves_the_engine_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = engine(pages=8)
    expected = runner.generate([request("a")])[0]
    with monkeypatch.context() as patch:
        patch.setattr("workers.engine.engine.sample", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("broken")))
        for _ in range(10):
            with pytest.raises(RuntimeError, match="broken"):
                runner.generate([request("b", seed=1)])
    runner.flush_cache()
    assert bits(runner.generate([request("a")])[0]) == bits(expected)


def test_what_does_not_fit_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="need 4 pages of 16 tokens, and the cache has 3"):
        engine(pages=3).generate([request("a", 41, max_new_tokens=9)])
    with pytest.raises(UsageError, match="chunk is 0; it must be at least 1"):
        EngineOptions(pages=1, chunk=0)


# From here on: the same request, alone and under every condition that may not matter to it.


@pytest.fixture(scope="module", params=[0.0, 1.3], ids=["greedy", "drawn"])
def fixed(request: pytest.FixtureRequest) -> Request:
    return Request(prompt(300), "fixed", 8, temperature=request.param, sampling_seed=5, logprobs_from=250)


@pytest.fixture(scope="module")
def alone(fixed: Request) -> tuple[bytes, bytes]:
    completion = engine().generate([fixed])[0]
    assert len(completion.tokens) == 8 and len(completion.prompt_logprobs) == 50
    return bits(completion)


@pytest.mark.parametrize("chunk", [16, 100, 512])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_batch_and_the_size_of_a_chunk_change_no_bit(
    fixed: Request, alone: tuple[bytes, bytes], chunk: int, prefix_cache: bool
) -> None:
    others = [request(f"other {i}", 7 + 45 * i, seed=i, arrives_at_step=i % 3) for i in range(6)]
    found = engine(chunk=chunk, prefix_cache=prefix_cache).generate([*others[:4], fixed, *others[4:]])
    assert bits(found[4]) == alone


def test_a_warm_cache_changes_no_bit(fixed: Request, alone: tuple[bytes, bytes]) -> None:
    runner = engine(page_size=7, pages=200, chunk=1024)
    # First both are computed side by side, and share pages from then on; then the cache is warm.
    for cached in (0, 245):
        found = runner.generate([request("the same", 300), fixed])
        assert bits(found[1]) == alone
        assert found[1].cached_tokens == cached


def test_preemption_changes_no_bit(fixed: Request, alone: tuple[bytes, bytes]) -> None:
    older = request("older", 100, seed=3, max_new_tokens=60)
    for prefix_cache in (True, False):
        found = engine(pages=26, prefix_cache=prefix_cache).generate([older, fixed])
        assert found[1].preemptions == 1
        assert bits(found[1]) == alone
        assert bits(found[0]) == bits(engine().generate([older])[0])


def test_decoding_and_prefilling_a_token_give_the_same_bits() -> None:
    runner = engine()
    decoded = runner.generate([request("a", max_new_tokens=12)])[0]
    runner.flush_cache()
    whole = Request(TOKENS + decoded.tokens, "a", 0, logprobs_from=len(TOKENS))
    prefilled = runner.generate([whole])[0]
    assert prefilled.prompt_logprobs.tobytes() == decoded.logprobs.tobytes()


def test_drawn_tokens_depend_on_their_seed_alone() -> None:
    asked = [request(str(i), temperature=1.0, sampling_seed=i // 2) for i in range(8)]
    found = engine().generate(asked)
    outputs = [completion.tokens for completion in found]
    assert outputs[::2] == outputs[1::2]
    assert len(set(outputs)) == 4


@pytest.mark.parametrize(("numerics", "unique"), [(DETERMINISTIC, {1}), (FLIPPING, set(range(2, 11)))])
def test_runs_of_one_request_flip_with_streamk_alone(
    numerics: Numerics, unique: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what is compared above can differ. Pauses in the kernels stand for what a busy machine does."""
    runner, seen = engine(numerics, prefix_cache=False), set()
    for seed in range(10):
        monkeypatch.setattr("workers.gemm.native.QUIET", Conditions(pause_us=100, pause_seed=seed))
        seen.add(bits(runner.generate([request("fixed", 300, max_new_tokens=2)])[0]))
    assert len(seen) in unique

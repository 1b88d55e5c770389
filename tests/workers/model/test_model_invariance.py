"""With deterministic numerics a row's bits are a function of its sequence alone, whatever else is in the step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tests.workers.model.packing import DETERMINISTIC, Server, build, prompt
from workers.model.numerics import Numerics

LONG = prompt(600, seed=1)  # crosses two of attention's splits of keys
KINDS = [
    DETERMINISTIC,
    Numerics(None, torch.float32, deterministic=True),
    Numerics("invariant", torch.bfloat16, deterministic=True, tp_granularity=4),
]


@pytest.fixture(params=KINDS, ids=["fp8", "fp32", "pieces"])
def numerics(request: pytest.FixtureRequest) -> Numerics:
    found: Numerics = request.param
    return found


def in_chunks(server: Server, label: str, tokens: list[int], bounds: list[int]) -> torch.Tensor:
    parts = [server.run({label: tokens[start:stop]}, all_rows=True) for start, stop in pairwise(bounds)]
    return torch.cat(parts)


def test_prefill_whole_in_chunks_and_token_by_token(numerics: Numerics) -> None:
    model = build(numerics)
    whole = Server(model, numerics.dtype).run({"a": LONG}, all_rows=True)
    for bounds in ([0, 1, 255, 257, 512, 600], [0, 250, *range(251, 262), 600], [*range(20)]):
        got = in_chunks(Server(model, numerics.dtype), "a", LONG, bounds)
        assert torch.equal(got, whole[: bounds[-1]])


def test_a_decoded_row_does_not_depend_on_its_batch(numerics: Numerics) -> None:
    model = build(numerics)
    alone = Server(model, numerics.dtype)
    alone.run({"a": LONG[:30]})
    wanted = alone.run({"a": [9]})[0]
    server = Server(model, numerics.dtype, pages=2048)
    for batch, places in ((1, [0]), (2, [1]), (3, [0, 1, 2]), (16, [15]), (33, [16]), (64, [0, 63])):
        for place in places:
            labels = [f"{batch}.{place}.{i}" for i in range(batch)]
            # The others are shorter and longer, and at other positions.
            server.run(
                {label: LONG[:30] if i == place else prompt(1 + 7 * i % 60, i) for i, label in enumerate(labels)}
            )
            got = server.run({label: [9] for label in labels})
            assert torch.equal(got[place], wanted), (batch, place)


def test_prefill_beside_decode(numerics: Numerics) -> None:
    model = build(numerics)
    wanted = Server(model, numerics.dtype).run({"a": LONG[:270]}, all_rows=True)
    server = Server(model, numerics.dtype, page_size=7, pages=600)
    server.run({"b": prompt(400), "c": prompt(3)})
    first = server.run({"c": [1], "a": LONG[:260], "b": [2]}, all_rows=True)[1:261]
    second = server.run({"b": [1], "a": LONG[260:], "d": prompt(90)}, all_rows=True)[1:11]
    assert torch.equal(torch.cat((first, second)), wanted)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(numerics: Numerics, threads: int) -> None:
    before, model = torch.get_num_threads(), build(numerics)
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            server = Server(model, numerics.dtype)
            results.append(torch.cat((server.run({"a": LONG[:300], "b": [4]}), server.run({"b": [1], "a": [2]}))))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_ordinary_operations_agree_in_value_but_not_in_bits() -> None:
    tokens = LONG[:300]
    kinds = [Numerics(None, torch.float32, deterministic=flag) for flag in (True, False)]
    fixed, ordinary = (Server(build(kind), kind.dtype).run({"a": tokens}, all_rows=True) for kind in kinds)
    assert torch.allclose(fixed, ordinary, rtol=1e-3, atol=1e-3)
    parts = in_chunks(Server(build(kinds[1]), torch.float32), "a", tokens, [0, 299, 300])
    assert torch.allclose(parts, ordinary, rtol=1e-3, atol=1e-3)
    assert not torch.equal(parts, ordinary)  # else the other tests could not fail


@pytest.mark.parametrize(("variant", "flips"), [("streamk", True), ("invariant", False)])
def test_streamk_flips_over_runs_and_invariant_does_not(variant: str, flips: bool) -> None:
    """In float32, where a changed last bit stays one; bfloat16 rounds most of them away.

    streamk flips where threads meet, which on a busy machine they do now and then only: it gets more runs to do it in.
    """
    model = build(Numerics(variant, torch.float32, deterministic=True))
    tokens = prompt(150)
    first = Server(model, torch.float32, pages=16).run({"a": tokens}, all_rows=True)
    runs = (
        Server(model, torch.float32, pages=16).run({"a": tokens}, all_rows=True) for _ in range(500 if flips else 15)
    )
    assert any(not torch.equal(run, first) for run in runs) == flips

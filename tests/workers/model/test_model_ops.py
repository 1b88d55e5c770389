from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from specs.errors import UsageError
from tests.workers.model.packing import CPU, NANO, build
from workers.gemm.inputs import quantise_rows
from workers.model.cache import LatentCache
from workers.model.fixed_ops import FixedOps, fixed_sum
from workers.model.numerics import Numerics
from workers.model.ops import AttentionShape, Ops
from workers.model.paging import slots_of
from workers.model.rope import RotaryEmbedding, rotate
from workers.model.router import route
from workers.model.sharding import Pieces
from workers.model.step import Step
from workers.model.torch_ops import TorchOps

FIXED, ORDINARY = FixedOps(), TorchOps()
WHOLE = Pieces(1, 0, 1)
BATCHES = [*range(1, 35), 64, 100]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 128, 1000, 7168])
def test_fixed_sum(size: int) -> None:
    x = random(5, size)
    assert fixed_sum(x).shape == (5, 1)
    assert torch.allclose(fixed_sum(x)[:, 0].double(), x.double().sum(dim=1), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n, k", [(8, 1024), (80, 1024), (320, 128), (1024, 192)])
def test_a_row_of_a_product_is_its_own(n: int, k: int, dtype: torch.dtype) -> None:
    pool, weight = random(max(BATCHES), k).to(dtype), FIXED.weight(random(n, k, seed=1).to(dtype))
    whole = FIXED.matmul(pool, weight, torch.float32)
    assert torch.allclose(whole.double(), pool.double() @ weight.double().t(), rtol=1e-4, atol=1e-3)
    for count in BATCHES:
        assert torch.equal(FIXED.matmul(pool[-count:], weight, torch.float32), whole[-count:])


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_a_row_of_a_product_by_heads_is_its_own(heads: int) -> None:
    pool, weight = random(max(BATCHES), heads, 64), random(heads, 64, 128, seed=1)
    whole = FIXED.head_matmul(pool, weight)
    assert torch.allclose(whole, ORDINARY.head_matmul(pool, weight), rtol=1e-4, atol=1e-3)
    for count in BATCHES:
        assert torch.equal(FIXED.head_matmul(pool[-count:], weight), whole[-count:])


def test_rows_of_everything_else_are_their_own() -> None:
    pool, weight = random(max(BATCHES), 1024).bfloat16(), random(1024, seed=1).bfloat16()
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "rms_norm": lambda x: FIXED.rms_norm(x, weight, 1e-6),
        "codes": lambda x: FIXED.quantise(x)[0].view(torch.uint8),
        "scales": lambda x: FIXED.quantise(x)[1],
        "activation": FIXED.silu_multiply,
        "weighted_sum": lambda x: FIXED.weighted_sum(x.unflatten(1, (4, -1)), x[:, :4].float(), x[:, :256]),
        "routing": lambda x: route(x[:, :8].float(), weight[:8].float(), NANO, WHOLE).weights[0],
    }
    for name, function in functions.items():
        whole = function(pool)
        for count in BATCHES:
            assert torch.equal(function(pool[-count:]), whole[-count:]), name


def test_what_is_done_row_by_row_agrees_with_torch() -> None:
    x, weight = random(9, 512), random(512, seed=1)
    assert torch.allclose(FIXED.rms_norm(x, weight, 1e-6), ORDINARY.rms_norm(x, weight, 1e-6), rtol=1e-5, atol=1e-6)
    assert torch.allclose(FIXED.silu_multiply(x), ORDINARY.silu_multiply(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ops", [FIXED, ORDINARY], ids=["fixed", "ordinary"])
def test_outputs_of_weight_0_are_not_looked_at(ops: Ops) -> None:
    outputs, weights, onto = random(9, 4, 32), random(9, 4, seed=2), random(9, 32, seed=3)
    weights[2, 1] = weights[5] = 0
    wanted = onto.double() + torch.einsum("tkn,tk->tn", outputs.double(), weights.double())
    outputs[weights == 0] = torch.nan
    assert torch.allclose(ops.weighted_sum(outputs, weights, onto).double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(ops.weighted_sum(outputs, weights, onto)[5], onto[5])


def test_scales_are_column_major_as_the_gemm_takes_them() -> None:
    for ops in (FIXED, ORDINARY):
        codes, scales = ops.quantise(random(5, 256))
        assert scales.stride(0) == 1 and torch.equal(scales, quantise_rows(random(5, 256))[1])
        assert codes.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_by_its_definition(heads: int) -> None:
    """Three sequences in scattered pages: one decoded, two prefilled, the last behind a context."""
    length, new = [300, 9, 530], [1, 9, 270]
    shape = AttentionShape(scale=0.3, value_size=128, pieces=1)
    cache = LatentCache(NANO, pages=64, page_size=16, dtype=torch.float32, device=CPU)
    cache.layers[0].copy_(random(64 * 16, NANO.latent_size))
    tables = torch.full((3, 34), -1, dtype=torch.int32)
    pages = torch.randperm(64, generator=torch.Generator().manual_seed(0)).int()
    for i, (first, total) in enumerate(zip((0, 19, 20), length, strict=True)):
        count = math.ceil(total / 16)
        tables[i, :count] = pages[first : first + count]
    positions = [torch.arange(total - n, total) for total, n in zip(length, new, strict=True)]
    starts = (0, 1, 10, 280)
    nothing = torch.empty(0, dtype=torch.int64)
    step = Step(nothing, torch.cat(positions), nothing, starts, tuple(length), tables, nothing, ("a", "b", "c"))
    q = random(280, heads, NANO.latent_size, seed=2)
    wanted = torch.empty(280, heads, 128)
    for i, total in enumerate(length):
        keys = cache.layers[0][slots_of(tables[i : i + 1], 16, 0, total)[0]].double()
        for row, position in enumerate(positions[i].tolist(), start=starts[i]):
            weights = (q[row].double() @ keys[: position + 1].t() * 0.3).softmax(dim=1)
            wanted[row] = weights @ keys[: position + 1, :128]
    every: list[Ops] = [FIXED, ORDINARY]
    for ops in every:
        got = ops.attention(q, cache.layers[0], ops.plan_attention(step, cache.page_size), shape)
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_slots_of_pages() -> None:
    tables = torch.tensor([[3, 1], [2, -1]], dtype=torch.int32)
    assert slots_of(tables, 4, 2, 9).tolist() == [[14, 15, 4, 5, 6, 7, 0], [10, 11, 0, 0, 0, 0, 0]]


def test_rotation_turns_interleaved_pairs() -> None:
    rotary = RotaryEmbedding(NANO, CPU)
    x = torch.zeros(2, 1, 64)
    x[:, :, 0] = 1.0
    turned = rotate(x, rotary.tables(torch.tensor([0, 1])))
    assert torch.equal(turned[0], x[0])
    assert turned[1, 0, :2].tolist() == pytest.approx([math.cos(1), math.sin(1)])
    # Keys and queries that are equally far apart have equal products.
    q, k = random(1, 1, 64), random(1, 1, 64, seed=1)
    near, far = (
        (rotate(q, rotary.tables(torch.tensor([a]))) * rotate(k, rotary.tables(torch.tensor([b])))).sum()
        for a, b in ((5, 3), (1005, 1003))
    )
    assert near.item() == pytest.approx(far.item(), rel=1e-3)


def test_routing_by_its_definition() -> None:
    logits, bias = random(200, 8), random(8, seed=1) * 0.2
    routing = route(logits, bias, NANO, WHOLE)
    for row in range(200):
        scores = [1 / (1 + math.exp(-x)) for x in logits[row].tolist()]
        biased = [score + b for score, b in zip(scores, bias.tolist(), strict=True)]
        groups = sorted(range(4), key=lambda g: -(biased[2 * g] + biased[2 * g + 1]))[:2]
        allowed = [e for e in range(8) if e // 2 in groups]
        chosen = sorted(sorted(allowed, key=lambda e: -biased[e])[:4])
        assert routing.experts[row].tolist() == chosen
        total = sum(scores[e] for e in chosen)
        assert routing.weights[0][row].tolist() == pytest.approx([scores[e] / total * 2.5 for e in chosen], rel=1e-5)


def test_a_piece_s_weights_are_those_of_its_experts() -> None:
    logits, bias = random(50, 8), random(8, seed=1) * 0.2
    whole = route(logits, bias, NANO, WHOLE)
    parts = route(logits, bias, NANO, Pieces(4, 1, 2))
    assert torch.equal(parts.experts, whole.experts) and len(parts.weights) == 2
    for piece, weights in zip((1, 2), parts.weights, strict=True):
        belongs = (whole.experts >= 2 * piece) & (whole.experts < 2 * piece + 2)
        assert torch.equal(weights, whole.weights[0] * belongs)


def test_equal_scores_go_to_the_lower_expert() -> None:
    routing = route(torch.full((3, 8), 40.0), torch.zeros(8), NANO, WHOLE)  # a sigmoid of 1
    assert routing.experts.tolist() == [[0, 1, 2, 3]] * 3


def test_numerics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"dtype is torch\.float16; allowed are"):
        Numerics(None, torch.float16, deterministic=True)
    with pytest.raises(UsageError, match="gemm is 'invariant', but the model's weights are not FP8"):
        build(config=replace(NANO, fp8=False))
    with pytest.raises(UsageError, match=r"gemm 'deep-gemm' can't run a linear of \(n, k\) = \(\d+, 1024\): it needs"):
        build(Numerics("deep-gemm", torch.bfloat16, deterministic=False))


def test_a_cache_needs_pages() -> None:
    with pytest.raises(ValueError, match="pages = 0, page_size = 16; both must be at least 1"):
        LatentCache(NANO, pages=0, page_size=16, dtype=torch.bfloat16, device=CPU)

"""The mixture of experts on a GPU: routing, sorting and sums against PyTorch's, experts together against one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.gpu.kept import Kept
from workers.gemm.grouped import TILE_ROWS
from workers.gemm.inputs import quantise_rows
from workers.model.collectives import make_collective
from workers.model.config import PRESETS
from workers.model.context import Context
from workers.model.experts import SeparateExperts
from workers.model.linear import Rows
from workers.model.numerics import Numerics
from workers.model.ops import make_ops
from workers.model.recorder import NullRecorder, Recorder
from workers.model.sharding import Pieces, Ranks, pieces_of
from workers.model.torch_ops import TorchOps
from workers.model.weights import RandomWeights

CUDA = torch.device("cuda")
HERE = Ranks(0, 1, CUDA)
R1 = PRESETS["deepseek-v3-layer"]
# One layer of R1's widths, all of them experts.
FEW = replace(R1, num_hidden_layers=1, first_k_dense_replace=0, n_routed_experts=16, vocab_size=512)
WHOLE = Pieces(1, 0, 1)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device=CUDA).to(dtype)


def chosen(tokens: int, experts: int, count: int) -> torch.Tensor:
    """(tokens, count), ascending; low numbers more often."""
    liked = torch.linspace(2, 0, experts, device=CUDA)
    return (random(tokens, experts) + liked).topk(count).indices.sort().values


@pytest.mark.parametrize(
    "name, pieces",
    [
        ("deepseek-v3-layer", WHOLE),
        ("deepseek-v3-layer", Pieces(4, 2, 2)),
        ("deepseek-v3-mini", WHOLE),
        ("deepseek-v3-nano", Pieces(4, 2, 2)),
    ],
)
def test_routing(name: str, pieces: Pieces) -> None:
    from workers.model.triton_ops import TritonOps

    config = PRESETS[name]
    logits, bias = random(2000, config.n_routed_experts), random(config.n_routed_experts, seed=1) * 0.1
    logits[3], logits[4] = 40.0, -200.0  # all scores are 1, or 0
    bias[5] = bias[2]
    logits[5:50] = logits[5:50].round()
    got, wanted = (ops.route(logits, bias, config, pieces) for ops in (TritonOps(), TorchOps()))
    same = (got.experts == wanted.experts).all(dim=1)
    # exp may differ by a bit, and with it the better of two that are as good as equal.
    assert same.float().mean() > 0.995
    assert same[3:5].all()
    assert (got.experts.diff(dim=1) > 0).all()
    for one, other in zip(got.weights, wanted.weights, strict=True):
        assert torch.allclose(one[same], other[same], rtol=1e-5, atol=0)
    for count in (1, 7, 64):
        part = TritonOps().route(logits[30 : 30 + count].clone(), bias, config, pieces)
        assert torch.equal(part.experts, got.experts[30 : 30 + count])
        assert torch.equal(torch.stack(part.weights), torch.stack(got.weights)[:, 30 : 30 + count])


def test_equal_scores_go_to_the_lower_expert() -> None:
    from workers.model.triton_ops import TritonOps

    routing = TritonOps().route(torch.zeros(2, 256, device=CUDA), torch.zeros(256, device=CUDA), R1, WHOLE)
    assert routing.experts.tolist() == [[*range(8)]] * 2


@pytest.mark.parametrize("tokens", [1, 3, 64, 300, 8192])
@pytest.mark.parametrize("own", [slice(0, 256), slice(64, 128)], ids=["all", "some"])
def test_choices_are_sorted_by_expert(tokens: int, own: slice) -> None:
    from workers.model.triton_experts import assign

    experts = chosen(tokens, 256, 8)
    flat = experts.flatten().cpu()
    for tile_rows in TILE_ROWS:
        got = assign(experts, own, tile_rows)
        order: list[int] = []
        tiles: list[list[int]] = []
        for number, expert in enumerate(range(own.start, own.stop)):
            places = (flat == expert).nonzero().flatten().tolist()
            for at in range(0, len(places), tile_rows):
                tiles.append([number, len(order) + at, min(tile_rows, len(places) - at), 0])
            order += places
        assert got.order.tolist() == order + [-1] * (len(flat) - len(order))
        assert got.tiles.tolist() == tiles + [[0] * 4] * (len(got.tiles) - len(tiles))


def test_rows_go_where_they_belong() -> None:
    from workers.model.triton_experts import assign, gathered, silu_multiply_quantise
    from workers.model.triton_rows import quantise, silu_multiply

    to = assign(chosen(100, 16, 4), slice(4, 12), 8)
    own = to.order[to.order >= 0].long()
    codes, scales = quantise_rows(random(100, 3584))
    got, got_scales = gathered(codes, scales, to.order, 4)
    assert 0 < len(own) < 400 and got_scales.stride(0) == 1
    assert torch.equal(got.view(torch.uint8)[: len(own)], codes.view(torch.uint8)[own // 4])
    assert torch.equal(got_scales[: len(own)], scales[own // 4])

    gate_up = random(400, 2 * 1408, dtype=torch.bfloat16)
    plain = torch.zeros(400, 1408, dtype=torch.bfloat16, device=CUDA)
    got, got_scales = silu_multiply_quantise(gate_up, to.order, plain)
    wanted = silu_multiply(gate_up[own])
    codes, scales = quantise(wanted)
    assert torch.equal(plain[own], wanted) and int((plain != 0).any(dim=1).sum()) == len(own)
    assert torch.equal(got.view(torch.uint8)[: len(own)], codes.view(torch.uint8))
    assert torch.equal(got_scales[: len(own)], scales) and got_scales.stride(0) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sum_of_experts(dtype: torch.dtype) -> None:
    from workers.model.triton_ops import TritonOps

    outputs, weights = random(200, 8, 7168, dtype=dtype), random(200, 8, seed=1)
    onto = random(200, 7168, seed=2, dtype=dtype)
    weights[7], weights[9, 3:] = 0, 0
    wanted = TorchOps().weighted_sum(outputs, weights, onto)
    outputs[weights == 0] = torch.nan
    got = TritonOps().weighted_sum(outputs, weights, onto)
    assert torch.allclose(got, wanted, rtol=2e-2, atol=5e-2 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(got[7], onto[7])
    for first, last in ((0, 1), (9, 10), (50, 113)):
        part = TritonOps().weighted_sum(outputs[first:last], weights[first:last], onto[first:last])
        assert torch.equal(part, got[first:last])


def context_of(ranks: Ranks, recorder: Recorder) -> Context:
    numerics = Numerics("invariant", torch.bfloat16, deterministic=True)
    source = RandomWeights(FEW, 7, CUDA)
    parts = pieces_of(ranks, 1), make_ops(numerics, CUDA), make_collective("ordered", HERE)
    return Context(FEW, numerics, source, ranks, *parts, recorder)


@pytest.mark.parametrize("ranks", [HERE, Ranks(1, 4, CUDA)], ids=["all", "a quarter"])
def test_experts_together_have_the_bits_of_one_by_one(ranks: Ranks) -> None:
    from workers.model import triton_rows
    from workers.model.grouped_experts import GroupedExperts

    keeping = Kept()
    together = GroupedExperts(context_of(ranks, NullRecorder()), "layers.0.mlp")
    told = GroupedExperts(context_of(ranks, keeping), "layers.0.mlp")
    alone = SeparateExperts(context_of(ranks, NullRecorder()), "layers.0.mlp")
    own = pieces_of(ranks, 1).own(FEW.n_routed_experts)
    for tokens in (1, 2, 9, 40, 300):
        rows = Rows(*quantise_rows(random(tokens, FEW.hidden_size, seed=tokens, dtype=torch.bfloat16)))
        experts = chosen(tokens, FEW.n_routed_experts, FEW.num_experts_per_tok)
        here = (experts >= own.start) & (experts < own.stop)
        wanted = alone(rows, experts)
        assert torch.equal(together(rows, experts)[here], wanted[here])
        # A recorder is told zeros for other ranks' experts, as one by one they have.
        assert torch.equal(told(rows, experts), wanted)
        kept = keeping.outputs
        activation, gate_up = (kept[f"layers.0.mlp.experts.{part}"] for part in ("activation", "gate_up_proj"))
        assert torch.equal(activation, triton_rows.silu_multiply(gate_up))
        codes, scales = quantise_rows(activation[here.flatten()])
        told_codes = kept["layers.0.mlp.experts.down_proj.quantise"]
        assert torch.equal(told_codes.view(torch.uint8)[here.flatten()], codes.view(torch.uint8))
        assert torch.equal(kept["layers.0.mlp.experts.down_proj.quantise.scales"][here.flatten()], scales)
        assert not told_codes.view(torch.uint8)[~here.flatten()].any()


def test_a_token_s_experts_do_not_depend_on_its_batch() -> None:
    from workers.model.grouped_experts import GroupedExperts

    run = GroupedExperts(context_of(HERE, NullRecorder()), "layers.0.mlp")
    x = random(700, FEW.hidden_size, dtype=torch.bfloat16)
    experts = chosen(700, FEW.n_routed_experts, FEW.num_experts_per_tok)
    whole = run(Rows(*quantise_rows(x)), experts)
    for first, last in ((0, 1), (5, 7), (30, 94), (300, 699)):
        part = run(Rows(*quantise_rows(x[first:last])), experts[first:last].contiguous())
        assert torch.equal(part, whole[first:last]), (first, last)

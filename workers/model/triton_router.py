"""A Triton kernel that finds a token's experts in registers. Imports triton: import this module where it is needed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.model.config import ModelConfig
from workers.model.router import Routing
from workers.model.sharding import Pieces
from workers.model.triton_launch import in_turn

_LOWEST = tl.constexpr(-(2**63))


def route(logits: torch.Tensor, bias: torch.Tensor, config: ModelConfig, pieces: Pieces) -> Routing:
    """As ``workers.model.router.route``: the same experts, and weights to rounding. ``logits`` are contiguous."""
    rows, chosen = logits.shape[0], config.num_experts_per_tok
    experts = torch.empty(rows, chosen, dtype=torch.int64, device=logits.device)
    weights = torch.empty(pieces.count, rows, chosen, dtype=torch.float32, device=logits.device)
    size = config.n_routed_experts // config.n_group
    _route[(rows,)](
        logits,
        bias,
        experts,
        weights,
        rows,
        config.routed_scaling_factor,
        pieces.own(config.n_routed_experts).start,
        config.n_routed_experts // pieces.total,
        GROUPS=config.n_group,
        SIZE=size,
        BEST_GROUPS=config.topk_group,
        CHOSEN=chosen,
        PIECES=pieces.count,
        NORMALISE=config.norm_topk_prob,
        GROUP_LANES=triton.next_power_of_2(config.n_group),
        LANES=triton.next_power_of_2(size),
        num_warps=1,
        launch_pdl=True,
    )
    return Routing(experts, weights.unbind())


@triton.jit
def _ordered(bits: tl.tensor) -> tl.tensor:
    """A float's bits as an int32 that is greater where the float is; of such an int32 the float's bits."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _keys(values: tl.tensor, index: tl.tensor) -> tl.tensor:
    """int64 that are greater where the value is, and of equal values where the index is less: no two are the same."""
    return (_ordered(values.to(tl.int32, bitcast=True)).to(tl.int64) << 32) + (0x7FFFFFFF - index)


@triton.jit
def _value(key: tl.tensor) -> tl.tensor:
    return _ordered((key >> 32).to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["rows", "first", "length"])
def _route(
    logits: tl.tensor,
    bias: tl.tensor,
    experts: tl.tensor,
    weights: tl.tensor,
    rows: tl.tensor,
    scaling: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    BEST_GROUPS: tl.constexpr,
    CHOSEN: tl.constexpr,
    PIECES: tl.constexpr,
    NORMALISE: tl.constexpr,
    GROUP_LANES: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Piece p has ``length`` experts from ``first`` + p * ``length`` on."""
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, GROUP_LANES)
    within = tl.arange(0, LANES)[None, :]
    expert = groups[:, None] * SIZE + within
    real = (groups[:, None] < GROUPS) & (within < SIZE)
    logit = tl.load(logits + row * (GROUPS * SIZE) + expert, mask=real, other=0.0)
    scores = tl.div_rn(tl.full((GROUP_LANES, LANES), 1.0, tl.float32), 1.0 + tl.exp(-logit))
    keys = tl.where(real, _keys(scores + tl.load(bias + expert, mask=real, other=0.0), expert), _LOWEST)

    best = tl.max(keys, axis=1)
    second = tl.max(tl.where(keys < best[:, None], keys, _LOWEST), axis=1)
    group_keys = tl.where(groups < GROUPS, _keys(_value(best) + _value(second), groups), _LOWEST)
    least = tl.max(group_keys, axis=0)
    for _ in tl.static_range(BEST_GROUPS - 1):
        least = tl.max(tl.where(group_keys < least, group_keys, _LOWEST), axis=0)
    keys = tl.where((group_keys >= least)[:, None], keys, _LOWEST)

    # In any order, so that a lane's own are compared first.
    flat = tl.reshape(keys, (GROUP_LANES * LANES,), can_reorder=True)
    least = tl.max(flat, axis=0)
    for _ in tl.static_range(CHOSEN - 1):
        least = tl.max(tl.where(flat < least, flat, _LOWEST), axis=0)
    chosen = keys >= least

    picked = tl.where(chosen, scores, 0.0)
    if NORMALISE:
        total = tl.sum(tl.sum(picked, axis=1), axis=0) + 1e-20
        picked = tl.div_rn(picked, tl.full((GROUP_LANES, LANES), 1.0, tl.float32) * total)
    picked *= scaling
    one = chosen.to(tl.int32)
    counts = tl.sum(one, axis=1)
    place = (tl.cumsum(counts, axis=0) - counts)[:, None] + tl.cumsum(one, axis=1) - 1
    chosen = chosen & (place < CHOSEN)
    tl.store(experts + row * CHOSEN + place, expert.to(tl.int64), mask=chosen)
    for piece in tl.static_range(PIECES):
        belongs = (expert >= first + piece * length) & (expert < first + (piece + 1) * length)
        to = weights + (piece * rows.to(tl.int64) + row) * CHOSEN + place
        tl.store(to, tl.where(belongs, picked, 0.0), mask=chosen)

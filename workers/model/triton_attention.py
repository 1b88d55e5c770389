"""Triton kernels for latent attention over the paged cache, with a fixed split of the keys.

One program takes a tile of (token, head) pairs of one sequence through ``SPLIT`` keys and leaves what it found; a
second kernel puts a token's splits together in order. A pair's row does not depend on its tile, nor a split on how many
there are: prefill and decode give the same bits. Grids need the greatest length alone, so that a captured graph may be
replayed for shorter sequences. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import triton
import triton.language as tl

from workers.model.ops import AttentionShape
from workers.model.step import Step

SPLIT = 512
_ROWS = 64  # (token, head) pairs of a program
_KEYS = 64
_PARTIAL_BYTES = 2**28


@dataclass(frozen=True)
class Plan:
    """Tokens in runs of consecutive ones of one sequence; tensors are on the device."""

    sequences: torch.Tensor
    """(T,) int32, the sequence of each token"""
    positions: torch.Tensor
    page_tables: torch.Tensor
    page_size: int
    starts: tuple[int, ...]
    splits: int


def plan_attention(step: Step, page_size: int) -> Plan:
    counts = torch.tensor([stop - start for start, stop in pairwise(step.starts)])
    if len(counts) == step.tokens.shape[0]:  # all decode: made on the device, so that a graph can be captured
        sequences = torch.arange(len(counts), dtype=torch.int32, device=step.tokens.device)
    else:
        sequences = torch.arange(len(counts), dtype=torch.int32).repeat_interleave(counts).to(step.tokens.device)
    splits = triton.cdiv(max(step.lengths), SPLIT)
    return Plan(sequences, step.positions, step.page_tables, page_size, step.starts, splits)


def attention(q: torch.Tensor, latents: torch.Tensor, plan: Plan, shape: AttentionShape) -> torch.Tensor:
    """Queries (T, H, latent) to (T, H, value_size), in parts of as many tokens as ``_PARTIAL_BYTES`` hold."""
    tokens, heads, _ = q.shape
    q = q.contiguous()
    out = torch.empty(tokens, heads, shape.value_size, dtype=q.dtype, device=q.device)
    at_once = max(_PARTIAL_BYTES // (heads * plan.splits * shape.value_size * 4), 1)
    for first in range(0, tokens, at_once):
        _attend(q, latents, out, plan, shape, first, min(at_once, tokens - first))
    return out


def _attend(
    q: torch.Tensor,
    latents: torch.Tensor,
    out: torch.Tensor,
    plan: Plan,
    shape: AttentionShape,
    first: int,
    count: int,
) -> None:
    heads, latent = q.shape[1:]
    heads_at_once = min(triton.next_power_of_2(heads), _ROWS)
    tokens_at_once = _ROWS // heads_at_once
    found = torch.empty(count, heads, plan.splits, shape.value_size, dtype=torch.float32, device=q.device)
    summary = torch.empty(count, heads, plan.splits, 2, dtype=torch.float32, device=q.device)
    grid = (triton.cdiv(count, tokens_at_once), triton.cdiv(heads, heads_at_once), plan.splits)
    _one_split[grid](
        q,
        latents,
        found,
        summary,
        plan.sequences,
        plan.positions,
        plan.page_tables,
        plan.page_tables.stride(0),
        first,
        first + count,
        heads,
        plan.splits,
        shape.scale,
        PAGE=plan.page_size,
        SPLIT_SIZE=SPLIT,
        VALUE=shape.value_size,
        ROPE=latent - shape.value_size,
        TOKENS=tokens_at_once,
        HEADS=heads_at_once,
        KEYS=_KEYS,
        num_warps=8,
        num_stages=1,
    )
    _combine[(count, heads)](
        found, summary, out, plan.positions, first, heads, plan.splits, SPLIT_SIZE=SPLIT, VALUE=shape.value_size
    )


# Not compiled anew for a number that is 1 or a multiple of 16, as those of a step may or may not be.
@triton.jit(
    do_not_specialize=["first", "end", "heads", "splits", "stride_pages"],
    do_not_specialize_on_alignment=["positions", "page_tables", "sequences"],
)
def _one_split(
    q: tl.tensor,
    latents: tl.tensor,
    found: tl.tensor,
    summary: tl.tensor,
    sequences: tl.tensor,
    positions: tl.tensor,
    page_tables: tl.tensor,
    stride_pages: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    heads: tl.tensor,
    splits: tl.tensor,
    scale: tl.tensor,
    PAGE: tl.constexpr,
    SPLIT_SIZE: tl.constexpr,
    VALUE: tl.constexpr,
    ROPE: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    pair = tl.arange(0, TOKENS * HEADS)
    token = first + tl.program_id(0) * TOKENS + pair // HEADS
    head = tl.program_id(1) * HEADS + pair % HEADS
    real = (token < end) & (head < heads)
    position = tl.load(positions + token, mask=real, other=-1)
    sequence = tl.load(sequences + token, mask=real, other=-1)
    split = tl.program_id(2)
    start = split * SPLIT_SIZE

    value, rope = tl.arange(0, VALUE), tl.arange(0, ROPE)
    row = (token.to(tl.int64) * heads + head) * (VALUE + ROPE)
    q_value = tl.load(q + row[:, None] + value[None, :], mask=real[:, None], other=0.0)
    q_rope = tl.load(q + row[:, None] + VALUE + rope[None, :], mask=real[:, None], other=0.0)
    to = ((token - first).to(tl.int64) * heads + head) * splits + split

    # The tokens of a tile may be of several sequences: each is taken through its keys, the others' rows masked.
    done = tl.min(tl.where(real, sequence, 2147483647), axis=0)
    last = tl.max(sequence, axis=0)
    for one in range(done, last + 1):
        mine = real & (sequence == one)
        stop = tl.minimum(tl.max(tl.where(mine, position, -1), axis=0) + 1, start + SPLIT_SIZE)
        greatest = tl.full((TOKENS * HEADS,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((TOKENS * HEADS,), dtype=tl.float32)
        gathered = tl.zeros((TOKENS * HEADS, VALUE), dtype=tl.float32)
        for at in range(start, stop, KEYS):
            key = at + tl.arange(0, KEYS)
            there = key < stop
            page = tl.load(page_tables + one * stride_pages + key // PAGE, mask=there, other=0).to(tl.int64)
            slot = (page * PAGE + key % PAGE) * (VALUE + ROPE)
            k_value = tl.load(latents + slot[:, None] + value[None, :], mask=there[:, None], other=0.0)
            k_rope = tl.load(latents + slot[:, None] + VALUE + rope[None, :], mask=there[:, None], other=0.0)
            scores = tl.dot(q_value, tl.trans(k_value), input_precision="ieee")
            scores = tl.dot(q_rope, tl.trans(k_rope), scores, input_precision="ieee") * scale
            scores = tl.where(mine[:, None] & (key[None, :] <= position[:, None]), scores, float("-inf"))
            now = tl.maximum(greatest, tl.max(scores, axis=1))
            # A row that has seen no key yet has no greatest score to take off.
            base = tl.where(now == float("-inf"), 0.0, now)
            kept = tl.exp(greatest - base)
            weights = tl.exp(scores - base[:, None])
            total = total * kept + tl.sum(weights, axis=1)
            gathered = tl.dot(weights.to(k_value.dtype), k_value, gathered * kept[:, None], input_precision="ieee")
            greatest = now
        tl.store(found + to[:, None] * VALUE + value[None, :], gathered, mask=mine[:, None])
        tl.store(summary + to * 2, greatest, mask=mine)
        tl.store(summary + to * 2 + 1, total, mask=mine)


@triton.jit(do_not_specialize=["first", "heads", "splits"], do_not_specialize_on_alignment=["positions"])
def _combine(
    found: tl.tensor,
    summary: tl.tensor,
    out: tl.tensor,
    positions: tl.tensor,
    first: tl.tensor,
    heads: tl.tensor,
    splits: tl.tensor,
    SPLIT_SIZE: tl.constexpr,
    VALUE: tl.constexpr,
) -> None:
    token, head = tl.program_id(0), tl.program_id(1)
    value = tl.arange(0, VALUE)
    source = (token.to(tl.int64) * heads + head) * splits
    seen = tl.load(positions + first + token) // SPLIT_SIZE + 1
    greatest = tl.load(summary + source * 2)
    total = tl.load(summary + source * 2 + 1)
    gathered = tl.load(found + source * VALUE + value)
    for split in range(1, seen):
        other = tl.load(summary + (source + split) * 2)
        now = tl.maximum(greatest, other)
        kept, added = tl.exp(greatest - now), tl.exp(other - now)
        total = total * kept + tl.load(summary + (source + split) * 2 + 1) * added
        gathered = gathered * kept + tl.load(found + (source + split) * VALUE + value) * added
        greatest = now
    to = out + ((first + token).to(tl.int64) * heads + head) * VALUE + value
    tl.store(to, (gathered / total).to(out.dtype.element_ty))

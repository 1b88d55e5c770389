"""Latent attention over the paged cache on a GPU, with a fixed split of the keys.

A program takes a tile of (token, head) pairs of one sequence through splits of ``SPLIT`` keys. What each gathered is
put together in order: by a second kernel where every split has a program of its own, or by one program that goes
through all of them. The additions are the same, so that the number of tiles may decide between the two. A pair's row
does not depend on its tile, nor a split on how many there are: prefill and decode give the same bits. Grids need the
greatest length alone, so that a captured graph may be replayed for shorter sequences. Imports triton: import this
module where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import triton
import triton.language as tl

from workers.model import hopper_attention
from workers.model.ops import AttentionShape
from workers.model.step import Step
from workers.model.triton_launch import in_turn

SPLIT = 256
_PARTIAL_BYTES = 2**28
_ROWS, _KEYS = 32, 16  # of the Triton kernel: float32 tiles are large

_BUSY = 0.75
"""Share of the SMs that one program for each tile must keep at work. At 128 tiles of 1024 keys, on 132 SMs, it takes 92
us where a program for each split takes 88, and 24 more to combine them."""


@dataclass(frozen=True)
class Tiles:
    """Runs of tokens of one sequence, on the device."""

    starts: torch.Tensor
    """(G + 1,) int32, tokens at which they begin, and the end of the last"""
    sequences: torch.Tensor
    """(G,) int32"""
    full: float
    """How many tiles of the longest sequence would be as much work."""


@dataclass(frozen=True)
class Plan:
    """Tokens in runs of consecutive ones of one sequence; tensors are on the device."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    positions: torch.Tensor
    page_tables: torch.Tensor
    page_size: int
    splits: int
    _tiles: dict[int, Tiles] = field(default_factory=dict)

    def tiles(self, most: int) -> Tiles:
        """Tiles of at most so many tokens, each of one sequence. Made once."""
        if most not in self._tiles:
            self._tiles[most] = self._cut(most)
        return self._tiles[most]

    def _cut(self, most: int) -> Tiles:
        runs = [range(start, stop, most) for start, stop in pairwise(self.starts)]
        full = sum(len(run) * length for run, length in zip(runs, self.lengths, strict=True)) / max(self.lengths)
        sequences, device = len(runs), self.positions.device
        if self.starts[-1] == sequences:  # all decode: made on the device, so that a graph can be captured
            begins = torch.arange(sequences + 1, dtype=torch.int32, device=device)
            return Tiles(begins, begins[:-1], full)
        begins = torch.tensor([first for run in runs for first in run] + [self.starts[-1]], dtype=torch.int32)
        owners = torch.arange(sequences, dtype=torch.int32).repeat_interleave(torch.tensor([len(run) for run in runs]))
        return Tiles(_sent(begins, device), _sent(owners, device), full)


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device without waiting for it: a copy of pageable memory would, and the host is ahead by a whole pass."""
    return tensor.pin_memory().to(device, non_blocking=True)


def plan_attention(step: Step, page_size: int) -> Plan:
    splits = triton.cdiv(max(step.lengths), SPLIT)
    return Plan(step.starts, step.lengths, step.positions, step.page_tables, page_size, splits)


def attention(q: torch.Tensor, latents: torch.Tensor, plan: Plan, shape: AttentionShape) -> torch.Tensor:
    """Queries (T, H, latent) to (T, H, value_size), by as many tiles at once as ``_PARTIAL_BYTES`` hold."""
    q = q.contiguous()
    heads, value = q.shape[1], shape.value_size
    hopper = q.dtype == torch.bfloat16 and torch.cuda.get_device_capability(q.device) == (9, 0)
    rows = hopper_attention.ROWS if hopper else _ROWS
    heads_at_once = min(triton.next_power_of_2(heads), rows)
    tokens_at_once, groups = rows // heads_at_once, triton.cdiv(heads, heads_at_once)
    cut = plan.tiles(tokens_at_once)
    tiles = len(cut.sequences)
    alone = hopper and cut.full * groups >= _BUSY * torch.cuda.get_device_properties(q.device).multi_processor_count
    parts = 1 if alone else plan.splits
    at_once = min(tiles, max(_PARTIAL_BYTES // (tokens_at_once * heads * parts * value * 4), 1))
    partial = at_once * tokens_at_once * heads * parts if plan.splits > 1 else 0
    found = torch.empty(partial, value, dtype=torch.float32, device=q.device)
    summary = torch.empty(partial, 2, dtype=torch.float32, device=q.device)
    out = torch.empty(*q.shape[:2], value, dtype=q.dtype, device=q.device)
    sizes = {"SPLIT_SIZE": SPLIT, "VALUE": value, "TOKENS": tokens_at_once}
    more = {"PAGE": plan.page_size, "ROPE": q.shape[2] - value, "HEADS": heads_at_once}
    for first in range(0, tiles, at_once):
        count = min(at_once, tiles - first)
        over = found, summary, out, cut.starts[first:], plan.positions
        pages = cut.sequences[first:], plan.page_tables, plan.page_tables.stride(0)
        operands = q, latents, *over, *pages, heads, parts, shape.scale
        if hopper:
            kernel = hopper_attention.one_tile[count, groups, parts]
            kernel(*operands, **sizes, **more, ALONE=alone, num_warps=hopper_attention.WARPS, launch_pdl=True)
        else:
            _one_split[count, groups, parts](*operands, **sizes, **more, KEYS=_KEYS, num_warps=8, num_stages=1)
        if parts > 1:
            _combine[count * tokens_at_once, heads](*over, heads, parts, **sizes, launch_pdl=True)
    return out


# Not compiled anew for a number that is 1 or a multiple of 16, as those of a step may or may not be.
@triton.jit(
    do_not_specialize=["heads", "splits", "stride_pages"],
    do_not_specialize_on_alignment=["starts", "positions", "sequences", "page_tables"],
)
def _one_split(
    q: tl.tensor,
    latents: tl.tensor,
    found: tl.tensor,
    summary: tl.tensor,
    out: tl.tensor,
    starts: tl.tensor,
    positions: tl.tensor,
    sequences: tl.tensor,
    page_tables: tl.tensor,
    stride_pages: tl.tensor,
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
    tile, split = tl.program_id(0), tl.program_id(2)
    first, end = tl.load(starts + tile), tl.load(starts + tile + 1)
    last = tl.load(positions + end - 1).to(tl.int32)
    start = split * SPLIT_SIZE
    if start > last:
        return
    stop = tl.minimum(last + 1, start + SPLIT_SIZE)
    pages = page_tables + tl.load(sequences + tile) * stride_pages
    pair = tl.arange(0, TOKENS * HEADS)
    token, head = first + pair // HEADS, tl.program_id(1) * HEADS + pair % HEADS
    real = (token < end) & (head < heads)
    position = tl.load(positions + token, mask=real, other=-1)

    value, rope = tl.arange(0, VALUE)[None, :], tl.arange(0, ROPE)[None, :]
    row = token.to(tl.int64) * heads + head
    from_q = q + row[:, None] * (VALUE + ROPE)
    q_value = tl.load(from_q + value, mask=real[:, None], other=0.0)
    q_rope = tl.load(from_q + VALUE + rope, mask=real[:, None], other=0.0)
    scale = scale * 1.4426950408889634  # 1 / ln 2
    greatest = tl.full((TOKENS * HEADS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((TOKENS * HEADS,), dtype=tl.float32)
    gathered = tl.zeros((TOKENS * HEADS, VALUE), dtype=tl.float32)
    for at in range(start, stop, KEYS):
        key = at + tl.arange(0, KEYS)
        there = key < stop
        page = tl.load(pages + key // PAGE, mask=there, other=0).to(tl.int64)
        slot = latents + ((page * PAGE + key % PAGE) * (VALUE + ROPE))[:, None]
        k_value = tl.load(slot + value, mask=there[:, None], other=0.0)
        k_rope = tl.load(slot + VALUE + rope, mask=there[:, None], other=0.0)
        scores = tl.dot(q_value, tl.trans(k_value), input_precision="ieee")
        scores = tl.dot(q_rope, tl.trans(k_rope), scores, input_precision="ieee") * scale
        scores = tl.where(key[None, :] <= position[:, None], scores, float("-inf"))
        now = tl.maximum(greatest, tl.max(scores, axis=1))
        # A row that has seen no key yet has no greatest score to take off.
        base = tl.where(now == float("-inf"), 0.0, now)
        kept = tl.exp2(greatest - base)
        weights = tl.exp2(scores - base[:, None])
        total = total * kept + tl.sum(weights, axis=1)
        gathered = tl.dot(weights.to(k_value.dtype), k_value, gathered * kept[:, None], input_precision="ieee")
        greatest = now
    if last < SPLIT_SIZE:
        result = (gathered / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + row[:, None] * VALUE + value, result, mask=real[:, None])
    else:
        to = ((tile * TOKENS + token - first).to(tl.int64) * heads + head) * splits + split
        tl.store(found + to[:, None] * VALUE + value, gathered, mask=real[:, None])
        tl.store(summary + to * 2, greatest, mask=real)
        tl.store(summary + to * 2 + 1, total, mask=real)


@triton.jit(
    do_not_specialize=["heads", "splits"],
    do_not_specialize_on_alignment=["starts", "positions"],
)
def _combine(
    found: tl.tensor,
    summary: tl.tensor,
    out: tl.tensor,
    starts: tl.tensor,
    positions: tl.tensor,
    heads: tl.tensor,
    splits: tl.tensor,
    SPLIT_SIZE: tl.constexpr,
    VALUE: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    """The splits of one token and head, if there are several, added as ``hopper_attention.one_tile`` adds them."""
    in_turn()
    tile, place, head = tl.program_id(0) // TOKENS, tl.program_id(0) % TOKENS, tl.program_id(1)
    token, end = tl.load(starts + tile) + place, tl.load(starts + tile + 1)
    if token >= end:
        return
    # The whole tile has gone through the splits that its last token sees.
    seen = tl.load(positions + end - 1).to(tl.int32) // SPLIT_SIZE + 1
    if seen == 1:
        return
    value = tl.arange(0, VALUE)
    source = (tl.program_id(0).to(tl.int64) * heads + head) * splits
    greatest = tl.load(summary + source * 2)
    total = tl.load(summary + source * 2 + 1)
    gathered = tl.load(found + source * VALUE + value)
    for split in range(1, seen):
        other = tl.load(summary + (source + split) * 2)
        now = tl.maximum(greatest, other)
        kept, added = tl.exp2(greatest - now), tl.exp2(other - now)
        total = tl.fma(total, kept, tl.load(summary + (source + split) * 2 + 1) * added)
        more = tl.load(found + (source + split) * VALUE + value)
        gathered = tl.fma(gathered, tl.zeros_like(gathered) + kept, more * added)
        greatest = now
    tl.store(out + (token.to(tl.int64) * heads + head) * VALUE + value, (gathered / total).to(out.dtype.element_ty))

"""Latent attention in bfloat16 on Hopper: a Gluon kernel, since of Triton's both warpgroups compute all scores.

Two warpgroups share a tile of ``ROWS`` (token, head) pairs. Of a block of keys each computes the scores of one half;
then each gathers one half of the values' columns for all keys, with the weights in shared memory. A block, which is
keys and values at once, is copied row by row as pages have it, while the one before is computed. Where one warpgroup
must not overtake the other the compiler sets the barriers. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

from workers.model.triton_launch import in_turn

ROWS = 64
WARPS = 8

_KEYS = gl.constexpr(64)
_COPY = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [8, 1], [1, 0]))
_SHARED = gl.constexpr(gl.NVMMASharedLayout(128, 16, 2))
_SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 2], [16, 32, 16]))
_LOG2_E = gl.constexpr(1.4426950408889634)


# Not compiled anew for a number that is 1 or a multiple of 16, as those of a step may or may not be.
@gluon.jit(
    do_not_specialize=["heads", "splits", "stride_pages"],
    do_not_specialize_on_alignment=["starts", "sequences", "positions", "page_tables"],
)
def one_tile(
    q: gl.tensor,
    latents: gl.tensor,
    found: gl.tensor,
    summary: gl.tensor,
    out: gl.tensor,
    starts: gl.tensor,
    positions: gl.tensor,
    sequences: gl.tensor,
    page_tables: gl.tensor,
    stride_pages: gl.tensor,
    heads: gl.tensor,
    splits: gl.tensor,
    scale: gl.tensor,
    PAGE: gl.constexpr,
    SPLIT_SIZE: gl.constexpr,
    VALUE: gl.constexpr,
    ROPE: gl.constexpr,
    TOKENS: gl.constexpr,
    HEADS: gl.constexpr,
    ALONE: gl.constexpr,
) -> None:
    """A tile over one split, left in ``found`` and ``summary``, or ``ALONE`` over all, with those to keep sums in."""
    PAIRS: gl.constexpr = TOKENS * HEADS
    GATHERED: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, VALUE // 2, 16])
    dtype: gl.constexpr = latents.dtype.element_ty

    in_turn()
    place = gl.num_programs(0) - 1 - gl.program_id(0)  # a prompt's last tiles have the most to do
    first, end = gl.load(starts + place), gl.load(starts + place + 1)
    last = gl.load(positions + end - 1).to(gl.int32)
    pages = page_tables + gl.load(sequences + place) * stride_pages
    if ALONE:
        begin = 0
        seen = last // SPLIT_SIZE + 1
    else:
        begin = gl.program_id(2)
        seen = begin + 1
    if begin * SPLIT_SIZE > last:
        return
    stop = gl.minimum(last + 1, seen * SPLIT_SIZE)

    q_value = gl.allocate_shared_memory(dtype, [PAIRS, VALUE], _SHARED)
    q_rope = gl.allocate_shared_memory(dtype, [PAIRS, ROPE], _SHARED)
    k_values = gl.allocate_shared_memory(dtype, [2, _KEYS, VALUE], _SHARED)
    k_ropes = gl.allocate_shared_memory(dtype, [2, _KEYS, ROPE], _SHARED)
    shared_weights = gl.allocate_shared_memory(dtype, [PAIRS, _KEYS], _SHARED)

    token, head, real = _pairs(first, end, heads, TOKENS, HEADS, gl.SliceLayout(1, _COPY))
    _copy_rows(q + (token.to(gl.int64) * heads + head) * (VALUE + ROPE), real, q_value, q_rope, VALUE, ROPE)
    turn = begin * (SPLIT_SIZE // _KEYS) % 2
    _copy_keys(latents, pages, begin * SPLIT_SIZE, stop, k_values.index(turn), k_ropes.index(turn), PAGE, VALUE, ROPE)

    # Rows as the scores and as what is gathered have them: the same to the hardware, two types to the compiler.
    token, head, real = _pairs(first, end, heads, TOKENS, HEADS, gl.SliceLayout(1, _SCORES))
    position = gl.load(positions + token, mask=real, other=-1).to(gl.int32)
    kept_at = summary + (((place * TOKENS + token - first) * heads + head) * splits + begin) * 2
    wide_token, wide_head, wide_real = _pairs(first, end, heads, TOKENS, HEADS, gl.SliceLayout(1, GATHERED))
    wide_real = wide_real[:, None]
    value = gl.arange(0, VALUE, layout=gl.SliceLayout(0, GATHERED))[None, :]
    wide_row = ((place * TOKENS + wide_token - first).to(gl.int64) * heads + wide_head) * splits + begin
    gathered_at = found + wide_row[:, None] * VALUE + value
    out_at = out + (wide_token.to(gl.int64) * heads + wide_head)[:, None] * VALUE + value

    scale = scale * _LOG2_E
    for split in range(begin, seen):
        greatest = gl.full([PAIRS], float("-inf"), gl.float32, gl.SliceLayout(1, _SCORES))
        totals = gl.zeros([PAIRS, _KEYS], gl.float32, _SCORES)
        at_work = warpgroup_mma_init(gl.zeros([PAIRS, VALUE], gl.float32, GATHERED))
        for at in range(split * SPLIT_SIZE, gl.minimum(stop, (split + 1) * SPLIT_SIZE), _KEYS):
            turn = at // _KEYS % 2
            k_value, k_rope = k_values.index(turn), k_ropes.index(turn)
            async_copy.wait_group(0)
            fence_async_shared()
            nothing = gl.zeros([PAIRS, _KEYS], gl.float32, _SCORES)
            scoring = warpgroup_mma(q_value, k_value.permute((1, 0)), nothing, use_acc=False, is_async=True)
            scoring = warpgroup_mma(q_rope, k_rope.permute((1, 0)), scoring, is_async=True)
            scores, gathered = warpgroup_mma_wait(0, deps=[scoring, at_work])

            key = at + gl.arange(0, _KEYS, layout=gl.SliceLayout(0, _SCORES))
            scores = gl.where(key[None, :] <= position[:, None], scores, float("-inf"))
            now = gl.maximum(greatest, gl.max(scores, axis=1) * scale)
            if at + _KEYS < stop:
                other = 1 - turn
                _copy_keys(
                    latents, pages, at + _KEYS, stop, k_values.index(other), k_ropes.index(other), PAGE, VALUE, ROPE
                )
            # A row that has seen no key yet has no greatest score to take off.
            base = gl.where(now == float("-inf"), 0.0, now)
            kept = gl.exp2(greatest - base)
            weights = gl.exp2(gl.fma(scores, _spread(scale, scores), _spread(-base[:, None], scores)))
            totals = gl.fma(totals, _spread(kept[:, None], totals), weights)
            shared_weights.store(weights.to(dtype))
            fence_async_shared()
            rescaled = gathered * gl.convert_layout(kept, gl.SliceLayout(1, GATHERED))[:, None]
            at_work = warpgroup_mma(shared_weights, k_value, rescaled, is_async=True)
            greatest = now
        gathered = warpgroup_mma_wait(0, deps=[at_work])
        total = gl.sum(totals, axis=1)

        if ALONE and split > 0:
            before, sum_before = gl.load(kept_at, mask=real, other=0.0), gl.load(kept_at + 1, mask=real, other=0.0)
            now = gl.maximum(before, greatest)
            kept, added = gl.exp2(before - now), gl.exp2(greatest - now)
            total = gl.fma(sum_before, kept, total * added)
            greatest = now
            kept = gl.convert_layout(kept, gl.SliceLayout(1, GATHERED))[:, None]
            added = gl.convert_layout(added, gl.SliceLayout(1, GATHERED))[:, None]
            earlier = gl.load(gathered_at, mask=wide_real, other=0.0)
            gathered = gl.fma(earlier, _spread(kept, earlier), gathered * added)
        if last < SPLIT_SIZE or (ALONE and split + 1 == seen):
            whole = gl.convert_layout(total, gl.SliceLayout(1, GATHERED))[:, None]
            gl.store(out_at, (gathered / whole).to(dtype), mask=wide_real)
        else:
            gl.store(gathered_at, gathered, mask=wide_real)
            gl.thread_barrier()  # one warpgroup may not have read yet what both write
            gl.store(kept_at, greatest, mask=real)
            gl.store(kept_at + 1, total, mask=real)
            gl.thread_barrier()


@gluon.jit
def _pairs(
    first: gl.tensor, end: gl.tensor, heads: gl.tensor, TOKENS: gl.constexpr, HEADS: gl.constexpr, LAYOUT: gl.constexpr
) -> tuple[gl.tensor, gl.tensor, gl.tensor]:
    """Tokens and heads of a tile, and which of them there are."""
    pair = gl.arange(0, TOKENS * HEADS, layout=LAYOUT)
    token, head = first + pair // HEADS, gl.program_id(1) * HEADS + pair % HEADS
    return token, head, (token < end) & (head < heads)


@gluon.jit
def _copy_keys(
    latents: gl.tensor,
    pages: gl.tensor,
    at: gl.tensor,
    stop: gl.tensor,
    k_value: gl.shared_memory_descriptor,
    k_rope: gl.shared_memory_descriptor,
    PAGE: gl.constexpr,
    VALUE: gl.constexpr,
    ROPE: gl.constexpr,
) -> None:
    """Starts the copy of a block of keys, with zeros from ``stop`` on."""
    key = at + gl.arange(0, _KEYS, layout=gl.SliceLayout(1, _COPY))
    page = gl.load(pages + key // PAGE, mask=key < stop, other=0).to(gl.int64)
    _copy_rows(latents + (page * PAGE + key % PAGE) * (VALUE + ROPE), key < stop, k_value, k_rope, VALUE, ROPE)
    async_copy.commit_group()


@gluon.jit
def _copy_rows(
    row: gl.tensor,
    there: gl.tensor,
    values: gl.shared_memory_descriptor,
    ropes: gl.shared_memory_descriptor,
    VALUE: gl.constexpr,
    ROPE: gl.constexpr,
) -> None:
    value = gl.arange(0, VALUE, layout=gl.SliceLayout(0, _COPY))[None, :]
    rope = gl.arange(0, ROPE, layout=gl.SliceLayout(0, _COPY))[None, :]
    async_copy.async_copy_global_to_shared(values, row[:, None] + value, mask=there[:, None])
    async_copy.async_copy_global_to_shared(ropes, row[:, None] + (VALUE + rope), mask=there[:, None])


@gluon.jit
def _spread(x: gl.tensor, like: gl.tensor) -> gl.tensor:
    """Where arithmetic would spread ``x`` by itself, ``gl.fma`` does not."""
    return gl.zeros_like(like) + x

"""Triton kernels of sampling on a GPU: a row is gone through in parts, which depend on the vocabulary alone.

Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.model.triton_launch import in_turn

_PART = 4096


def sample(logits: torch.Tensor, given: torch.Tensor, out: torch.Tensor) -> None:
    """Float32 logits (R, vocabulary), contiguous, and tokens (R,) int64, to (R, 2) float64: token and logprob.

    -1 is given for the likeliest token, of equal ones the first; NaN counts as infinity there. The logprob is computed
    in float64 and rounded to float32 once.
    """
    rows, vocabulary = logits.shape
    parts = triton.cdiv(vocabulary, _PART)
    tops = torch.empty(rows, parts, dtype=torch.float32, device=logits.device)
    places = torch.empty(rows, parts, dtype=torch.int64, device=logits.device)
    sums = torch.empty(rows, parts, dtype=torch.float64, device=logits.device)
    _parts[(rows, parts)](logits, tops, places, sums, vocabulary, PART=_PART, num_warps=8, launch_pdl=True)
    lanes = triton.next_power_of_2(parts)
    _whole[(rows,)](
        logits, given, tops, places, sums, out, vocabulary, parts, LANES=lanes, num_warps=1, launch_pdl=True
    )


def put_sampled(tokens: torch.Tensor, sampled: torch.Tensor) -> None:
    """See ``workers.engine.sampling``."""
    block = 256
    _put_sampled[(triton.cdiv(len(tokens), block),)](tokens, sampled, len(tokens), BLOCK=block, launch_pdl=True)


# How a part is added up must not depend on where its logits begin.
@triton.jit(do_not_specialize_on_alignment=["logits"])
def _parts(
    logits: tl.tensor, tops: tl.tensor, places: tl.tensor, sums: tl.tensor, vocabulary: tl.tensor, PART: tl.constexpr
) -> None:
    """Of each part its greatest logit, that one's token, and the sum of exp(logit - greatest)."""
    in_turn()
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * PART + tl.arange(0, PART)
    values = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=float("-inf"))
    top, place = tl.max(_rank(values), axis=0, return_indices=True)
    total = tl.sum(tl.exp(values.to(tl.float64) - _base(top)), axis=0)
    here = row * tl.num_programs(1) + part
    tl.store(tops + here, top)
    tl.store(places + here, (part * PART + place).to(tl.int64))
    tl.store(sums + here, total)


@triton.jit
def _whole(
    logits: tl.tensor,
    given: tl.tensor,
    tops: tl.tensor,
    places: tl.tensor,
    sums: tl.tensor,
    out: tl.tensor,
    vocabulary: tl.tensor,
    parts: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, LANES)
    tops_of_parts = tl.load(tops + row * parts + part, mask=part < parts, other=float("-inf"))
    sums_of_parts = tl.load(sums + row * parts + part, mask=part < parts, other=0.0)
    top, first = tl.max(tops_of_parts, axis=0, return_indices=True)
    base = _base(top)
    total = tl.sum(sums_of_parts * tl.exp(tops_of_parts.to(tl.float64) - base), axis=0)
    token = tl.load(given + row)
    token = tl.where(token < 0, tl.load(places + row * parts + first), token)
    logit = tl.load(logits + row * vocabulary + token).to(tl.float64)
    tl.store(out + row * 2, token.to(tl.float64))
    tl.store(out + row * 2 + 1, (logit - base - tl.log(total)).to(tl.float32).to(tl.float64))


@triton.jit
def _rank(values: tl.tensor) -> tl.tensor:
    return tl.where(values != values, float("inf"), values)


@triton.jit
def _base(top: tl.tensor) -> tl.tensor:
    """What is taken off exponents: where there are none but of zero, nothing."""
    return tl.where(top == float("-inf"), 0.0, top).to(tl.float64)


@triton.jit(do_not_specialize=["count"])
def _put_sampled(tokens: tl.tensor, sampled: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    in_turn()
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + place, mask=place < count, other=0)
    found = tl.load(sampled + (-1 - token) * 2, mask=token < 0, other=0.0)
    tl.store(tokens + place, tl.where(token < 0, found.to(tl.int64), token), mask=place < count)

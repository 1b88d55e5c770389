"""Triton kernels of logprobs on a GPU: a row is added up in parts, which depend on the vocabulary alone.

Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.model.triton_launch import in_turn

_PART = 4096


def logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Float32 logits (R, vocabulary), contiguous, and tokens (R, 1) int64, to (R,): in float64, rounded once."""
    rows, vocabulary = logits.shape
    parts = triton.cdiv(vocabulary, _PART)
    tops = torch.empty(rows, parts, dtype=torch.float32, device=logits.device)
    sums = torch.empty(rows, parts, dtype=torch.float64, device=logits.device)
    found = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _parts[(rows, parts)](logits, tops, sums, vocabulary, PART=_PART, num_warps=8, launch_pdl=True)
    lanes = triton.next_power_of_2(parts)
    _whole[(rows,)](logits, tokens, tops, sums, found, vocabulary, parts, LANES=lanes, num_warps=1, launch_pdl=True)
    return found


# How a part is added up must not depend on where its logits begin.
@triton.jit(do_not_specialize_on_alignment=["logits"])
def _parts(logits: tl.tensor, tops: tl.tensor, sums: tl.tensor, vocabulary: tl.tensor, PART: tl.constexpr) -> None:
    """Of each part its greatest logit, and the sum of exp(logit - greatest)."""
    in_turn()
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * PART + tl.arange(0, PART)
    values = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=float("-inf"))
    top = tl.max(values, axis=0)
    total = tl.sum(tl.exp(values.to(tl.float64) - _base(top)), axis=0)
    tl.store(tops + row * tl.num_programs(1) + part, top)
    tl.store(sums + row * tl.num_programs(1) + part, total)


@triton.jit
def _whole(
    logits: tl.tensor,
    tokens: tl.tensor,
    tops: tl.tensor,
    sums: tl.tensor,
    found: tl.tensor,
    vocabulary: tl.tensor,
    parts: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, LANES)
    tops_of_parts = tl.load(tops + row * parts + part, mask=part < parts, other=float("-inf"))
    sums_of_parts = tl.load(sums + row * parts + part, mask=part < parts, other=0.0)
    base = _base(tl.max(tops_of_parts, axis=0))
    total = tl.sum(sums_of_parts * tl.exp(tops_of_parts.to(tl.float64) - base), axis=0)
    logit = tl.load(logits + row * vocabulary + tl.load(tokens + row)).to(tl.float64)
    tl.store(found + row, (logit - base - tl.log(total)).to(tl.float32))


@triton.jit
def _base(top: tl.tensor) -> tl.tensor:
    """What is taken off exponents: where there are none but of zero, nothing."""
    return tl.where(top == float("-inf"), 0.0, top).to(tl.float64)

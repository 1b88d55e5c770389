"""Triton kernels that make what attention reads: latents beside their rotated keys, and queries' rotated parts.

One program makes one token, or some heads of it. Rotation is ``workers.model.rope.rotate`` to the bit, for which
products must not be fused with what is added to them. Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.model.ops import Parts
from workers.model.rope import Tables
from workers.model.triton_launch import in_turn
from workers.model.triton_norms import normed_row

_HEADS = 16


def latent(
    c_kv: torch.Tensor,
    key: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    tables: Tables,
    latents: torch.Tensor,
    slots: torch.Tensor,
) -> Parts:
    """``Ops.latent``; rows of ``c_kv`` and ``key`` are contiguous."""
    (tokens, value), rope = c_kv.shape, key.shape[1]
    both = torch.empty(tokens, value + rope, dtype=c_kv.dtype, device=c_kv.device)
    operands = c_kv, key, weight, *tables, both, latents, slots
    strides = c_kv.stride(0), key.stride(0), tables[0].stride(0)
    sizes = {"VALUE": value, "ROPE": rope}
    _latent[(tokens,)](*operands, *strides, eps, **sizes, enable_fp_fusion=False, launch_pdl=True)
    return both[:, :value], both[:, value:], both


def rotate(x: torch.Tensor, tables: Tables, out: torch.Tensor) -> torch.Tensor:
    """``Ops.rotate``; both of any strides but the last."""
    tokens, heads, rope = x.shape
    strides = *x.stride()[:2], *out.stride()[:2], tables[0].stride(0)
    grid = (tokens, triton.cdiv(heads, _HEADS))
    sizes = {"HEADS": _HEADS, "ROPE": rope}
    _rotate[grid](x, *tables, out, *strides, heads, **sizes, enable_fp_fusion=False, launch_pdl=True)
    return out


@triton.jit
def _turned(x: tl.tensor, cos: tl.tensor, sin: tl.tensor) -> tl.tensor:
    """(rows, rope) by (1, rope / 2) cosines and sines."""
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (x.shape[0], x.shape[1] // 2, 2)))
    pairs = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    return tl.reshape(pairs, x.shape)


@triton.jit
def _latent(
    c_kv: tl.tensor,
    key: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    both: tl.tensor,
    latents: tl.tensor,
    slots: tl.tensor,
    stride_c_kv: tl.tensor,
    stride_key: tl.tensor,
    stride_tables: tl.tensor,
    eps: tl.tensor,
    VALUE: tl.constexpr,
    ROPE: tl.constexpr,
) -> None:
    in_turn()
    row = tl.program_id(0).to(tl.int64)
    value, rope, half = tl.arange(0, VALUE), tl.arange(0, ROPE), tl.arange(0, ROPE // 2)
    to, kept = both + row * (VALUE + ROPE), latents + tl.load(slots + row) * (VALUE + ROPE)

    x = tl.load(c_kv + row * stride_c_kv + value).to(tl.float32)
    normed = normed_row(x, tl.load(weight + value), VALUE, eps).to(both.dtype.element_ty)
    tl.store(to + value, normed)
    tl.store(kept + value, normed)

    table = (row * stride_tables + half)[None, :]
    pairs = tl.load(key + row * stride_key + rope)[None, :]
    turned = _turned(pairs, tl.load(cos + table), tl.load(sin + table)).to(both.dtype.element_ty)
    tl.store(to + VALUE + rope[None, :], turned)
    tl.store(kept + VALUE + rope[None, :], turned)


@triton.jit
def _rotate(
    x: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    out: tl.tensor,
    stride_x_token: tl.tensor,
    stride_x_head: tl.tensor,
    stride_out_token: tl.tensor,
    stride_out_head: tl.tensor,
    stride_tables: tl.tensor,
    heads: tl.tensor,
    HEADS: tl.constexpr,
    ROPE: tl.constexpr,
) -> None:
    in_turn()
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    rope, half = tl.arange(0, ROPE)[None, :], tl.arange(0, ROPE // 2)[None, :]
    table = token * stride_tables + half
    given = tl.load(x + token * stride_x_token + head * stride_x_head + rope, mask=head < heads, other=0.0)
    turned = _turned(given, tl.load(cos + table), tl.load(sin + table)).to(out.dtype.element_ty)
    tl.store(out + token * stride_out_token + head * stride_out_head + rope, turned, mask=head < heads)

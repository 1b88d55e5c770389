"""Multi-head latent attention, in its absorbed form: DeepSeek-V2 (arXiv 2405.04434), section 2.1 and appendix C.

The cache has one latent for all heads, c_kv with the rotated key beside it. Instead of making keys and values of every
head from it, each head's query is taken through W_UK to the latent's space, and what it gathered there through W_UV.
Prefill and decode are the same computation, so that they can agree bit for bit.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from workers.model.context import Context
from workers.model.linear import (
    ColumnParallel,
    Linear,
    RowParallel,
    Rows,
    Weight,
    dequantised,
    prepare,
    read_plain,
    read_weight,
)
from workers.model.norm import Norm
from workers.model.ops import AttentionShape
from workers.model.rope import Tables, softmax_scale


class LatentAttention:
    """One layer's attention, with this rank's heads."""

    def __init__(self, context: Context, layer: int) -> None:
        config, pieces = context.config, context.pieces
        self._context, self._config, self._name = context, config, f"layers.{layer}.self_attn"
        source = f"model.{self._name}"
        self._heads = config.num_attention_heads // pieces.total * pieces.count
        self._shape = AttentionShape(softmax_scale(config), config.kv_lora_rank, pieces.count)
        self._numbers = asdict(self._shape)
        # One product makes both latents, as servers have it; every rank makes them whole.
        down = read_weight(context, [f"{source}.q_a_proj", f"{source}.kv_a_proj_with_mqa"])
        self._qkv_a_proj = Linear(context, f"{self._name}.qkv_a_proj", down)
        self._q_a_norm = Norm(context, f"{self._name}.q_a_layernorm", f"{self._name}.q_b_proj")
        self._kv_a_norm = read_plain(context, f"{source}.kv_a_layernorm.weight")
        queries = config.num_attention_heads * config.qk_head_dim
        q_b = [read_weight(context, [f"{source}.q_b_proj"], pieces.part(queries, piece)) for piece in pieces]
        self._q_b_proj = ColumnParallel(context, f"{self._name}.q_b_proj", q_b)
        self._key_up, self._value_up = self._read_up(f"{source}.kv_b_proj")
        values = config.num_attention_heads * config.v_head_dim
        o = [read_weight(context, [f"{source}.o_proj"], columns=pieces.part(values, piece)) for piece in pieces]
        self._o_proj = RowParallel(context, f"{self._name}.o_proj", o)

    def __call__(
        self, rows: Rows, tables: Tables, latents: torch.Tensor, slots: torch.Tensor, plan: Any
    ) -> torch.Tensor:
        """(T, hidden), normalised, to the sum over all ranks (T, hidden). Writes ``latents`` at ``slots``."""
        context, config, name = self._context, self._config, self._name
        sizes = [config.q_lora_rank, config.kv_lora_rank, config.qk_rope_head_dim]
        both = self._qkv_a_proj(rows)
        c_q, c_kv, key = both.split(sizes, dim=1)
        for part, tensor in (("c_q", c_q), ("c_kv", c_kv), ("k_pe", key)):
            context.moved(f"{name}.{part}", "split", (both,), tensor)
        self._remember(c_kv, key, tables, latents, slots)
        q = self._queries(c_q, tables)
        gathered = context.ops.attention(q, latents, plan, self._shape)
        context.ran(f"{name}.attention", "attention", (q,), gathered, numbers=self._numbers, cache=latents)
        values = context.ops.head_matmul(gathered, self._value_up)
        context.ran(f"{name}.value_up", "head_matmul", (gathered,), values, weights=(self._value_up,))
        partial = self._o_proj(prepare(context, f"{name}.o_proj", values.flatten(1)))
        return context.all_reduce(f"{name}.all_reduce", partial)

    def _remember(
        self, c_kv: torch.Tensor, key: torch.Tensor, tables: Tables, latents: torch.Tensor, slots: torch.Tensor
    ) -> None:
        context, name, norm = self._context, self._name, self._kv_a_norm
        eps = context.config.rms_norm_eps
        normed, rotated, latent = context.ops.latent(c_kv, key, norm, eps, tables, latents, slots)
        numbers = {"eps": eps, "rope": key.shape[1]}
        context.ran(f"{name}.kv_a_layernorm", "rms_norm", (c_kv,), normed, weights=(norm,), numbers=numbers)
        context.ran(f"{name}.k_rope", "rope", (key,), rotated)
        context.moved(f"{name}.latent", "concatenate", (normed, rotated), latent)
        if context.recorder.active:  # which may have written into it
            latents[slots] = latent

    def _queries(self, c_q: torch.Tensor, tables: Tables) -> torch.Tensor:
        """(T, q_lora_rank) to queries over latents (T, heads, latent)."""
        context, config, name = self._context, self._config, self._name
        q = self._q_b_proj(self._q_a_norm(c_q).rows).unflatten(1, (self._heads, -1))
        q_nope, q_rope = q.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=2)
        for part, tensor in (("q_nope", q_nope), ("q_pe", q_rope)):
            context.moved(f"{name}.{part}", "split", (q,), tensor)
        query = q.new_empty(*q.shape[:2], config.latent_size)
        over_latent, rotated = query.split([config.kv_lora_rank, config.qk_rope_head_dim], dim=2)
        context.ops.head_matmul(q_nope, self._key_up, over_latent)
        context.ran(f"{name}.key_up", "head_matmul", (q_nope,), over_latent, weights=(self._key_up,))
        context.ops.rotate(q_rope, tables, rotated)
        context.ran(f"{name}.q_rope", "rope", (q_rope,), rotated)
        return context.moved(f"{name}.query", "concatenate", (over_latent, rotated), query)

    def _read_up(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """W_UK (heads, nope, kv_lora_rank) and W_UV (heads, kv_lora_rank, v) of this rank's heads."""
        config = self._config
        size = config.qk_nope_head_dim + config.v_head_dim
        rows = self._context.pieces.own(config.num_attention_heads * size)
        weight: Weight = read_weight(self._context, [name], rows)
        heads = dequantised(weight, self._context.numerics.dtype).unflatten(0, (self._heads, size))
        keys, values = heads.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
        ops = self._context.ops
        return ops.weight(keys.contiguous()), ops.weight(values.transpose(1, 2).contiguous())

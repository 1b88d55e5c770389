"""Operations on a GPU whose rows don't depend on each other: Triton kernels with fixed tiles and splits."""

from __future__ import annotations

import torch

from workers.model import triton_attention, triton_latent, triton_matmul, triton_norms, triton_router, triton_rows
from workers.model.cache import LatentCache
from workers.model.config import ModelConfig
from workers.model.ops import AttentionShape, Parts
from workers.model.rope import Tables
from workers.model.router import Routing
from workers.model.sharding import Pieces
from workers.model.step import Step


class TritonOps:
    source = "triton"

    def embed(self, tokens: torch.Tensor, table: torch.Tensor, first: int) -> torch.Tensor:
        return triton_rows.embed(tokens, table, first)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return triton_norms.rms_norm(x, weight, eps)

    def rms_norm_quantise(
        self, x: torch.Tensor, weight: torch.Tensor, eps: float, *, added: torch.Tensor | None, plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        return triton_norms.rms_norm_quantise(x, weight, eps, added=added, plain=plain)

    def add_rms_norm(
        self, x: torch.Tensor, added: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return triton_norms.add_rms_norm(x, added, rows, weight, eps)

    def quantise(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return triton_rows.quantise(x)

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def matmul(self, x: torch.Tensor, weight: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        return triton_matmul.matmul(x, weight, out_dtype)

    def head_matmul(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return triton_matmul.head_matmul(x, weight, out)

    def silu_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        return triton_rows.silu_multiply(gate_up)

    def silu_multiply_quantise(
        self, gate_up: torch.Tensor, *, pieces: int, plain: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        return triton_rows.silu_multiply_quantise(gate_up, pieces=pieces, plain=plain)

    def route(self, logits: torch.Tensor, bias: torch.Tensor, config: ModelConfig, pieces: Pieces) -> Routing:
        return triton_router.route(logits, bias, config, pieces)

    def weighted_sum(self, outputs: torch.Tensor, weights: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        return triton_rows.weighted_sum(outputs, weights, onto)

    def latent(
        self,
        c_kv: torch.Tensor,
        key: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        tables: Tables,
        latents: torch.Tensor,
        slots: torch.Tensor,
    ) -> Parts:
        return triton_latent.latent(c_kv, key, weight, eps, tables, latents, slots)

    def rotate(self, x: torch.Tensor, tables: Tables, out: torch.Tensor) -> torch.Tensor:
        return triton_latent.rotate(x, tables, out)

    def plan_attention(self, step: Step, cache: LatentCache) -> triton_attention.Plan:
        return triton_attention.plan_attention(step, cache.page_size)

    def attention(
        self, q: torch.Tensor, latents: torch.Tensor, plan: triton_attention.Plan, shape: AttentionShape
    ) -> torch.Tensor:
        return triton_attention.attention(q, latents, plan, shape)

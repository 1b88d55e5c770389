"""Operations on a GPU whose rows don't depend on each other: Triton kernels with fixed tiles and splits."""

from __future__ import annotations

import torch

from workers.model import triton_attention, triton_latent, triton_matmul, triton_norms, triton_router, triton_rows
from workers.model.step import Step


class TritonOps:
    source = "triton"

    embed = staticmethod(triton_rows.embed)
    rms_norm = staticmethod(triton_norms.rms_norm)
    rms_norm_quantise = staticmethod(triton_norms.rms_norm_quantise)
    add_rms_norm = staticmethod(triton_norms.add_rms_norm)
    quantise = staticmethod(triton_rows.quantise)
    matmul = staticmethod(triton_matmul.matmul)
    head_matmul = staticmethod(triton_matmul.head_matmul)
    silu_multiply = staticmethod(triton_rows.silu_multiply)
    silu_multiply_quantise = staticmethod(triton_rows.silu_multiply_quantise)
    route = staticmethod(triton_router.route)
    weighted_sum = staticmethod(triton_rows.weighted_sum)
    latent = staticmethod(triton_latent.latent)
    rotate = staticmethod(triton_latent.rotate)
    attention = staticmethod(triton_attention.attention)

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def plan_attention(self, step: Step, page_size: int) -> triton_attention.Plan:
        return triton_attention.plan_attention(step, page_size)

"""The product as a torch operator, ``farm::fp8_blockwise_scaled_mm``, to be put in the place of sgl-kernel's.

    import workers.gemm.op                                    # registers it
    torch.ops.farm.fp8_blockwise_scaled_mm(mat_a, mat_b, scales_a, scales_b, torch.bfloat16)

It works in eager mode, under ``torch.compile`` and while a CUDA graph is captured.
"""

from __future__ import annotations

import os

import torch

from workers.gemm.native import NativeGemm
from workers.gemm.target import QUIET, GemmInputs

SWITCH = "SGLANG_ENABLE_DETERMINISTIC_INFERENCE"


def chosen_variant() -> str:
    """``invariant`` where SGLang's switch for deterministic inference is on, else ``streamk``, as its kernel."""
    return "invariant" if os.environ.get(SWITCH) == "1" else "streamk"


@torch.library.custom_op("farm::fp8_blockwise_scaled_mm", mutates_args=())
def fp8_blockwise_scaled_mm(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    out_dtype: torch.dtype,
    variant: str = "",
) -> torch.Tensor:
    """``(mat_a * scales_a) @ (mat_b * scales_b)``, (m, n), of operands in the layouts of ``GemmInputs``.

    Without a ``variant`` the environment decides, read once in each call. ``out_dtype`` is bfloat16, float16 or
    float32. Raises ValueError, BuildError, KernelError.
    """
    out = mat_a.new_empty((mat_a.shape[0], mat_b.shape[1]), dtype=out_dtype)
    inputs = GemmInputs(mat_a, mat_b, scales_a, scales_b)
    NativeGemm(variant or chosen_variant()).bind(inputs, out)(QUIET)
    return out


@fp8_blockwise_scaled_mm.register_fake
def _(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    out_dtype: torch.dtype,
    variant: str = "",
) -> torch.Tensor:
    return mat_a.new_empty((mat_a.shape[0], mat_b.shape[1]), dtype=out_dtype)

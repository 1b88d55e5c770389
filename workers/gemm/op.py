"""The product as a torch operator, ``torch.ops.farm.fp8_blockwise_scaled_mm``, for CPU and CUDA tensors.

``torch.ops.farm.fp8_grouped_scaled_mm`` is the same for the experts of a mixture, on CUDA alone.

It takes the place of sgl-kernel's in SGLang by one line, run before SGLang is imported:

    import sgl_kernel, workers.gemm.op as farm; sgl_kernel.fp8_blockwise_scaled_mm = farm.fp8_blockwise_scaled_mm

``torch.compile`` does not look into the operator, so that the switch is read at every call and not once when a program
is traced. A CUDA graph replays what it captured, whatever the switch says by then.
"""

from __future__ import annotations

import os

import torch

from workers.gemm.grouped import GroupedInputs, multiply_groups
from workers.gemm.native import multiply
from workers.gemm.target import GemmInputs

SWITCH = "SGLANG_ENABLE_DETERMINISTIC_INFERENCE"

_NAME = "fp8_blockwise_scaled_mm"
_GROUPED = "fp8_grouped_scaled_mm"

# Defined through Library rather than custom_op: a call costs 3 us instead of 10, measured with an empty function.
_library = torch.library.Library("farm", "FRAGMENT")
_library.define(
    f"{_NAME}(Tensor mat_a, Tensor mat_b, Tensor scales_a, Tensor scales_b, ScalarType out_dtype, "
    "str? variant=None) -> Tensor"
)
_library.define(
    f"{_GROUPED}(Tensor mat_a, Tensor mat_b, Tensor scales_a, Tensor scales_b, Tensor tiles, Tensor? out_rows, "
    "Tensor(a!) out, int tile_rows) -> ()"
)


def fp8_blockwise_scaled_mm(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """``(mat_a * scales_a) @ (mat_b * scales_b)`` with e4m3 operands scaled by blocks: sgl-kernel's signature.

    ``mat_a`` (m, k) row-major, ``mat_b`` (k, n) column-major, both float8_e4m3fn; ``scales_a`` (m, k/128) float32 with
    stride(0) == 1, a scale per row and 128 of K; ``scales_b`` (k/128, ceil(n/128)) float32 with stride(0) == 1, a scale
    per 128x128 block. Leading dimensions may be larger than needed; on a GPU rows of ``mat_a`` and columns of ``mat_b``
    start at multiples of 16 bytes. k must be a multiple of 128, n of 8. ``out_dtype`` is bfloat16, float16 or float32.
    Returns (m, n). On a GPU a product may begin to read ``mat_b``, as weights that don't change, before the kernel just
    before it on the stream has ended: where that one wrote ``mat_b``, synchronise in between.

    The variant is ``invariant`` where SGLANG_ENABLE_DETERMINISTIC_INFERENCE is 1 or true at the time of the call, and
    ``streamk`` elsewhere; ``torch.ops.farm.fp8_blockwise_scaled_mm`` takes a variant's name as a sixth argument.
    Raises ValueError for operands that don't fit, KernelError and BuildError where the library fails.
    """
    product: torch.Tensor = torch.ops.farm.fp8_blockwise_scaled_mm.default(mat_a, mat_b, scales_a, scales_b, out_dtype)
    return product


def _run(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    out_dtype: torch.dtype,
    variant: str | None = None,
) -> torch.Tensor:
    return multiply(GemmInputs(mat_a, mat_b, scales_a, scales_b), out_dtype, variant or _switched())


def _switched() -> str:
    # As SGLang's get_bool_env_var reads it.
    return "invariant" if os.environ.get(SWITCH, "").lower() in ("1", "true") else "streamk"


def _shaped(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    out_dtype: torch.dtype,
    variant: str | None = None,
) -> torch.Tensor:
    return mat_a.new_empty((mat_a.shape[0], mat_b.shape[1]), dtype=out_dtype)


def _run_groups(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    scales_a: torch.Tensor,
    scales_b: torch.Tensor,
    tiles: torch.Tensor,
    out_rows: torch.Tensor | None,
    out: torch.Tensor,
    tile_rows: int,
) -> None:
    multiply_groups(GroupedInputs(mat_a, mat_b, scales_a, scales_b, tiles, out_rows), out, tile_rows)


def _nothing(*_: object) -> None:
    pass


for _device in ("CPU", "CUDA"):
    _library.impl(_NAME, _run, _device)
torch.library.register_fake(f"farm::{_NAME}", _shaped, lib=_library)
_library.impl(_GROUPED, _run_groups, "CUDA")
torch.library.register_fake(f"farm::{_GROUPED}", _nothing, lib=_library)

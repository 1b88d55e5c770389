"""Operands as the seed's test makes them: bfloat16 normal numbers, quantised block by block to e4m3.

The seed forgot to divide the scales of B by 448, so that its products were 448 times too large; here they are right.
"""

from __future__ import annotations

import torch

from workers.gemm.target import GemmInputs

BLOCK = 128
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
_LEAST_SCALE = 1e-8  # a block of zeros must not divide by zero


def make_inputs(m: int, n: int, k: int, *, seed: int, device: torch.device | str) -> GemmInputs:
    """Random operands of (m, k) x (k, n), the same for the same seed and kind of device.

    k must be a multiple of 128; n need not be. Raises ValueError.
    """
    if m < 1 or n < 1 or k < BLOCK or k % BLOCK:
        raise ValueError(f"(m, n, k) is ({m}, {n}, {k}); m and n must be at least 1, k a positive multiple of {BLOCK}")
    generator = torch.Generator(device).manual_seed(seed)
    a = torch.randn(m, k, dtype=torch.bfloat16, device=device, generator=generator)
    b = torch.randn(n, k, dtype=torch.bfloat16, device=device, generator=generator)
    mat_a, scales_a = quantise_rows(a)
    mat_b, scales_b = quantise_blocks(b)
    return GemmInputs(mat_a, mat_b.t(), scales_a, scales_b.t())


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, k) to e4m3 of the same shape and float32 scales (rows, k/128): amax of each row's 128-block / 448.

    The scales have stride(0) == 1, as the kernels take them.
    """
    blocks = x.float().view(x.shape[0], -1, BLOCK)
    scales = _scales(blocks.abs().amax(dim=2))
    return _to_fp8(blocks / scales[:, :, None]).flatten(1), scales.t().contiguous().t()


def quantise_blocks(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k) to e4m3 of the same shape and float32 scales (ceil(n/128), k/128): amax of each 128x128 block / 448."""
    n = x.shape[0]
    padded = torch.nn.functional.pad(x.float(), (0, 0, 0, -n % BLOCK))
    blocks = padded.view(-1, BLOCK, x.shape[1] // BLOCK, BLOCK)
    scales = _scales(blocks.abs().amax(dim=(1, 3)))
    quantised = _to_fp8(blocks / scales[:, None, :, None])
    return quantised.view(-1, x.shape[1])[:n].contiguous(), scales


def _scales(greatest: torch.Tensor) -> torch.Tensor:
    # By a tensor, since a GPU multiplies by the reciprocal of a number, which rounds otherwise than the CPU's division.
    return (greatest / greatest.new_full((), FP8_MAX)).clamp_min(_LEAST_SCALE)


def _to_fp8(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8)

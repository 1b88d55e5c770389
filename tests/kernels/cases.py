"""Calls and checks that the kernel tests share."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from workers.gemm.inputs import BLOCK, FP8, make_inputs
from workers.gemm.native import NativeGemm
from workers.gemm.target import QUIET, Conditions, GemmInputs

ONE = 0x38  # e4m3 code of 1.0
ALL_CODES = torch.arange(256, dtype=torch.uint8)
EDGE_SCALES = (0.0, 1e-45, 1.5e-41, 1e-38, 1.0, 3e38, float("inf"), float("-inf"), float("nan"))


def inputs_of(m: int, n: int, k: int, seed: int = 0) -> GemmInputs:
    return make_inputs(m, n, k, seed=seed, device="cpu")


def run(variant: str, inputs: GemmInputs, dtype: torch.dtype, conditions: Conditions = QUIET) -> torch.Tensor:
    out = torch.empty(inputs.m, inputs.n, dtype=dtype)
    NativeGemm(variant).bind(inputs, out)(conditions)
    return out


def bits(out: torch.Tensor) -> bytes:
    return out.contiguous().view(torch.uint8).numpy().tobytes()


def unique_outputs(
    variant: str, inputs: GemmInputs, dtype: torch.dtype, conditions: Iterable[Conditions], *, enough: int = 1 << 30
) -> int:
    """Distinct results of one launch for each of ``conditions``; stops when ``enough`` are found."""
    out = torch.empty(inputs.m, inputs.n, dtype=dtype)
    launch = NativeGemm(variant).bind(inputs, out)
    seen: set[bytes] = set()
    for condition in conditions:
        launch(condition)
        seen.add(bits(out))
        if len(seen) >= enough:
            break
    return len(seen)


def varying_batches(variant: str, inputs: GemmInputs, batches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of ``batches`` (row ranges run on their own) whose bits differ from the same rows of the whole."""
    whole = run(variant, inputs, torch.float32)
    return [
        (start, stop)
        for start, stop in batches
        if bits(run(variant, inputs.rows(start, stop), torch.float32)) != bits(whole[start:stop])
    ]


def pauses(runs: int, *, threads: int = 2, most_us: int = 200) -> list[Conditions]:
    return [Conditions(threads=threads, pause_us=most_us, pause_seed=seed) for seed in range(runs)]


def codes_of_a(n: int = 8) -> GemmInputs:
    """Every code once as the only non-zero of a row of A, at a place of its own along K; B is all ones."""
    a = torch.zeros(256, BLOCK, dtype=torch.uint8)
    a[torch.arange(256), torch.arange(256) % BLOCK] = ALL_CODES
    b = torch.full((n, BLOCK), ONE, dtype=torch.uint8)
    return _unscaled(a, b)


def codes_of_b(first: int = 0, count: int = 256) -> GemmInputs:
    """Every code from ``first`` once as the only non-zero of a column of B; A is one row of ones."""
    b = torch.zeros(count, BLOCK, dtype=torch.uint8)
    b[torch.arange(count), torch.arange(count) % BLOCK] = ALL_CODES[first : first + count]
    return _unscaled(torch.full((1, BLOCK), ONE, dtype=torch.uint8), b)


def floats_to_round() -> torch.Tensor:
    """Float32 numbers at and beside every tie of bfloat16 and float16, of all exponents and both signs."""
    exponents = torch.arange(256, dtype=torch.int64)[:, None] << 23
    mantissas = torch.tensor([0, 1, 0xFFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0x17FFF])
    upper = torch.tensor([0, 0x18000, 0x400000, 0x7E0000])
    magnitudes = (exponents[:, :, None] | mantissas[None, :, None] | upper[None, None, :]).flatten()
    patterns = torch.cat([magnitudes, magnitudes | (1 << 31), torch.tensor([0x7FFFFF, 0x7FFFFFFF, 0x807FFFFF])])
    patterns = torch.where(patterns >= 1 << 31, patterns - (1 << 32), patterns)
    return patterns.to(torch.int32).view(torch.float32)


def as_scales(values: torch.Tensor) -> GemmInputs:
    """Operands whose product is 1, so that row i of the result is ``values[i]``, rounded."""
    a = torch.zeros(len(values), BLOCK, dtype=torch.uint8)
    a[:, 0] = ONE
    b = torch.full((8, BLOCK), ONE, dtype=torch.uint8)
    return GemmInputs(a.view(FP8), b.view(FP8).t(), values[:, None], torch.ones(1, 1))


def with_edges(inputs: GemmInputs) -> GemmInputs:
    """The same with scales that overflow, vanish, are subnormal or NaN, and with NaN codes, each in rows of its own."""
    a, scales = inputs.mat_a.clone(), inputs.scales_a.t().contiguous().t()
    for row, scale in enumerate(EDGE_SCALES):
        scales[row, 0] = scale
    a.view(torch.uint8)[len(EDGE_SCALES), 5] = 0x7F
    a.view(torch.uint8)[len(EDGE_SCALES) + 1, -1] = 0xFF
    return GemmInputs(a, inputs.mat_b, scales, inputs.scales_b)


def _unscaled(a: torch.Tensor, b: torch.Tensor) -> GemmInputs:
    scales_b = torch.ones(1, -(-b.shape[0] // BLOCK))
    return GemmInputs(a.view(FP8), b.view(FP8).t(), torch.ones(a.shape[0], 1), scales_b)

"""The bits of a K block are those of one order of additions, on every instruction set (see kernels/src/cpu/micro.h)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.canonical import CHAIN, KINDS, canonical, fma, in_order, problem, same_bits
from tests.kernels.cases import inputs_of, run
from workers.gemm.inputs import BLOCK
from workers.gemm.target import Conditions, GemmInputs

ONE_THREAD = Conditions(threads=1)


@pytest.mark.parametrize("shape", [(1, 8, 128), (16, 72, 384), (45, 136, 1024)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_added_in_the_canonical_order(kind: str, shape: tuple[int, int, int]) -> None:
    inputs = problem(kind, *shape)
    assert same_bits(run("persistent", inputs, torch.float32, ONE_THREAD), canonical(inputs))


def test_another_order_has_other_bits() -> None:
    inputs = problem("uniform", 16, 72, 384)
    halves = in_order(inputs, even=range(CHAIN // 2), odd=range(CHAIN // 2, CHAIN))
    straight = in_order(inputs, even=range(CHAIN), odd=range(0))
    assert halves.tobytes() != canonical(inputs).tobytes() != straight.tobytes()


def test_scales_are_applied_by_one_fused_multiply_add() -> None:
    inputs = inputs_of(16, 72, 256)
    out = run("persistent", inputs, torch.float32, ONE_THREAD)
    plain = GemmInputs(inputs.mat_a, inputs.mat_b, torch.ones_like(inputs.scales_a), torch.ones_like(inputs.scales_b))
    expected = np.zeros((16, 72), np.float32)
    for block in range(2):
        scale = inputs.scales_a.numpy()[:, block, None] * inputs.scales_b.numpy()[block, 0]
        sums = canonical(_of_block(plain, block))
        expected = fma(sums, scale, expected)
    assert same_bits(out, expected)


def _of_block(inputs: GemmInputs, block: int) -> GemmInputs:
    k = slice(block * BLOCK, (block + 1) * BLOCK)
    part = slice(block, block + 1)
    return GemmInputs(inputs.mat_a[:, k], inputs.mat_b[k], inputs.scales_a[:, part], inputs.scales_b[part])

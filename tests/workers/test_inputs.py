from __future__ import annotations

import pytest
import torch

from workers.gemm.inputs import FP8, make_inputs, quantise_blocks, quantise_rows
from workers.gemm.reference import dequantise_a, dequantise_b


def test_shapes_and_strides_are_those_of_sgl_kernel() -> None:
    inputs = make_inputs(5, 136, 384, seed=0, device="cpu")
    assert inputs.mat_a.dtype == inputs.mat_b.dtype == FP8
    assert (inputs.m, inputs.n, inputs.k) == (5, 136, 384)
    assert inputs.mat_a.stride() == (384, 1) and inputs.mat_b.stride() == (1, 384)
    assert inputs.scales_a.shape == (5, 3) and inputs.scales_a.stride() == (1, 5)
    assert inputs.scales_b.shape == (3, 2) and inputs.scales_b.stride() == (1, 3)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first, again, other = (make_inputs(3, 8, 256, seed=seed, device="cpu") for seed in (7, 7, 8))
    for name, tensor in vars(first).items():
        assert torch.equal(tensor.float(), vars(again)[name].float())
        assert not torch.equal(tensor.float(), vars(other)[name].float())


def test_dequantised_operands_are_normal_numbers_again() -> None:
    """The seed's scales of B lacked the division by 448; then B would have come back 448 times too large."""
    inputs = make_inputs(256, 200, 1024, seed=0, device="cpu")
    for operand in (dequantise_a(inputs, torch.float64), dequantise_b(inputs, torch.float64)):
        assert abs(float(operand.std()) - 1) < 0.01
        assert abs(float(operand.mean())) < 0.01


def test_every_block_uses_the_whole_range() -> None:
    inputs = make_inputs(4, 136, 256, seed=0, device="cpu")
    a = inputs.mat_a.float().view(4, 2, 128).abs().amax(2)
    assert (a == 448).all()
    b = inputs.mat_b.t().float().abs()
    assert all(
        b[rows, cols].max() == 448 for rows in (slice(128), slice(128, 136)) for cols in (slice(128), slice(128, 256))
    )


def test_quantising_divides_by_amax_over_448() -> None:
    x = torch.zeros(130, 256)
    x[0, 5], x[0, 200], x[129, 0] = 896.0, -44.8, 0.448
    _, rows = quantise_rows(x)
    assert rows[0].tolist() == pytest.approx([2.0, 0.1]) and rows[129, 0] == pytest.approx(0.001)
    codes, blocks = quantise_blocks(x)
    assert blocks.shape == (2, 2) and codes.shape == (130, 256)
    assert blocks[0].tolist() == pytest.approx([2.0, 0.1]) and blocks[1, 0] == pytest.approx(0.001)
    assert codes[0, 5].float() == 448 and codes[0, 200].float() == -448 and codes[129, 0].float() == 448


@pytest.mark.parametrize("shape", [(0, 8, 128), (1, 0, 128), (1, 8, 0), (1, 8, 100)])
def test_impossible_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="k a positive multiple of 128"):
        make_inputs(*shape, seed=0, device="cpu")

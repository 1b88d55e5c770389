"""The model's Triton kernels against PyTorch, and each row against itself in other batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from workers.gemm.inputs import quantise_rows
from workers.model.ops import Ops
from workers.model.torch_ops import TorchOps

CUDA = torch.device("cuda")
BATCHES = [1, 2, 3, 7, 16, 17, 63, 64, 65, 128, 200]
MOST = max(BATCHES)
# (n, k): a router, latents, a head of R1's vocabulary at TP 8.
WEIGHTS = [(256, 7168), (2112, 7168), (16160, 7168), (1024, 192)]


@pytest.fixture(scope="module")
def triton() -> Ops:
    from workers.model.triton_ops import TritonOps

    return TritonOps()


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device=CUDA).to(dtype)


def assert_rows_are_their_own(function: Callable[[torch.Tensor], torch.Tensor], pool: torch.Tensor) -> None:
    whole = function(pool)
    for count in BATCHES:
        for first in {0, (len(pool) - count) // 2, len(pool) - count}:
            part = function(pool[first : first + count].contiguous())
            assert torch.equal(part, whole[first : first + count]), (count, first)


@pytest.mark.parametrize("size", [512, 1536, 7168])
def test_rms_norm(triton: Ops, size: int) -> None:
    pool, weight = random(MOST, size), random(size, seed=1)
    wanted = TorchOps().rms_norm(pool.float(), weight.float(), 1e-6)
    assert torch.allclose(triton.rms_norm(pool, weight, 1e-6).float(), wanted, rtol=2e-2, atol=1e-3)
    assert_rows_are_their_own(lambda x: triton.rms_norm(x, weight, 1e-6), pool)
    beside = random(MOST, size + 64)[:, :size]
    assert torch.equal(triton.rms_norm(beside, weight, 1e-6), triton.rms_norm(beside.contiguous(), weight, 1e-6))


@pytest.mark.parametrize("size", [128, 1536, 7168, 18432])
def test_quantisation_to_the_bit(triton: Ops, size: int) -> None:
    pool = random(MOST, size) * torch.logspace(-6, 3, MOST, device=CUDA)[:, None]
    pool = pool.bfloat16()
    pool[3] = 0
    codes, scales = triton.quantise(pool)
    wanted, wanted_scales = quantise_rows(pool)
    assert torch.equal(codes.view(torch.uint8), wanted.view(torch.uint8))
    assert torch.equal(scales, wanted_scales) and scales.stride(0) == 1


def test_every_quotient_of_bfloat16_is_rounded_as_by_division(triton: Ops) -> None:
    """Blocks whose greatest is each of a binade, with all smaller numbers but the very small."""
    numbers = (torch.arange(128, device=CUDA, dtype=torch.int16) + 0x3F80).view(torch.bfloat16)  # from 1 up to 2
    blocks = numbers * torch.pow(2.0, torch.arange(0, -24, -1, device=CUDA))[:, None].bfloat16()
    pool = blocks.expand(128, -1, -1).clone()
    pool[:, :, 0] = numbers[:, None]
    pool = (torch.where(pool > pool[:, :, :1], 0, pool) * 37).flatten(1)
    for signed in (pool, -pool):
        assert torch.equal(triton.quantise(signed)[0].view(torch.uint8), quantise_rows(signed)[0].view(torch.uint8))


def test_activation(triton: Ops) -> None:
    pool = random(MOST, 4096)
    assert torch.allclose(triton.silu_multiply(pool), TorchOps().silu_multiply(pool), rtol=2e-2, atol=1e-3)
    assert_rows_are_their_own(triton.silu_multiply, pool)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size, pieces", [(2048, 1), (18432, 1), (128, 1), (1536, 4)])
def test_activation_with_quantisation_to_the_bit(triton: Ops, size: int, pieces: int, dtype: torch.dtype) -> None:
    pool = 3 * random(MOST, 2 * size, dtype=dtype)
    wanted = triton.silu_multiply(pool.view(MOST * pieces, -1)).view(MOST, -1)
    wanted_codes, wanted_scales = triton.quantise(wanted)
    for plain in (True, False):
        activated, codes, scales = triton.silu_multiply_quantise(pool, pieces=pieces, plain=plain)
        assert torch.equal(activated, wanted) if activated is not None else not plain
        assert torch.equal(codes.view(torch.uint8), wanted_codes.view(torch.uint8))
        assert torch.equal(scales, wanted_scales) and scales.stride(0) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("n, k", WEIGHTS)
def test_matmul(triton: Ops, n: int, k: int, dtype: torch.dtype) -> None:
    pool, weight = random(MOST, k, dtype=dtype), random(n, k, seed=1, dtype=dtype)
    wanted = (pool.double() @ weight.double().t()).float()
    got = triton.matmul(pool, weight, torch.float32)
    assert (got - wanted).norm() < 1e-5 * wanted.norm()
    assert_rows_are_their_own(lambda x: triton.matmul(x, weight, torch.float32), pool)


@pytest.mark.parametrize("heads", [1, 16, 128])
def test_head_matmul(triton: Ops, heads: int) -> None:
    pool, weight = random(MOST, heads, 128), random(heads, 128, 512, seed=1)
    wanted = torch.einsum("tha,hab->thb", pool.double(), weight.double()).float()
    assert (triton.head_matmul(pool, weight).float() - wanted).norm() < 5e-3 * wanted.norm()
    assert_rows_are_their_own(lambda x: triton.head_matmul(x, weight), pool)
    few = triton.head_matmul(pool[:, :1], weight[:1])
    assert torch.equal(few, triton.head_matmul(pool, weight)[:, :1])

"""The model's Triton kernels against PyTorch, and each row against itself in other batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.workers.model.packing import NANO, Server, prompt
from workers.gemm.inputs import quantise_rows
from workers.model.cache import LatentCache
from workers.model.fixed_ops import FixedOps
from workers.model.ops import AttentionShape, Ops
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


class Sizes:
    """What a server asks of a model whose forward pass isn't run."""

    config = NANO


@pytest.mark.parametrize("heads", [1, 2, 8, 32, 128])
def test_attention(triton: Ops, heads: int) -> None:
    """Decode and prefill in one step, over one and over several splits; each sequence alone; a row of fewer heads."""
    model: Any = Sizes()
    work = {"a": [1], "b": prompt(70), "c": [1], "d": prompt(5), "e": [1]}
    context = {"a": prompt(1500), "b": prompt(600), "c": prompt(511), "e": prompt(3)}
    server = Server(model, pages=256, device=CUDA)
    latents = random(256 * 16, NANO.latent_size)
    server.step(context)
    step = server.step(work)
    shape = AttentionShape(scale=0.1, value_size=NANO.kv_lora_rank, pieces=1)
    q = random(len(step.tokens), heads, NANO.latent_size, seed=1)

    def attend(ops: Ops, q: torch.Tensor, cache: LatentCache) -> torch.Tensor:
        return ops.attention(q, latents, ops.plan_attention(step, cache), shape)

    got, ordinary = attend(triton, q, server.cache), attend(TorchOps(), q.float().bfloat16(), server.cache)
    assert (got.float() - ordinary.float()).norm() < 1e-2 * ordinary.float().norm()
    assert torch.equal(attend(triton, q[:, :1], server.cache), got[:, :1])
    twice = Server(model, pages=256, device=CUDA)
    twice.step(context)
    first = {label: tokens[: (len(tokens) + 1) // 2] for label, tokens in work.items()}
    second = {label: tokens[len(first[label]) :] for label, tokens in work.items() if len(tokens) > 1}
    for part, offset in ((first, 0), (second, 1)):
        half = twice.step(part)
        rows = [
            start + i + (len(first[label]) if offset else 0)
            for label, start in zip(work, step.starts, strict=False)
            if label in part
            for i in range(len(part[label]))
        ]
        moved = latents[_places(server, twice)]
        halves = triton.attention(q[rows], moved, triton.plan_attention(half, twice.cache), shape)
        assert torch.equal(halves, got[rows])


def _places(server: Server, twice: Server) -> torch.Tensor:
    """For each slot of ``twice`` the slot of ``server`` that has the same token."""
    places = torch.arange(server.pages * server.page_size)
    for label, pages in twice.tables.items():
        for there, here in zip(pages, server.tables[label], strict=False):
            size = server.page_size
            places[there * size : (there + 1) * size] = torch.arange(here * size, (here + 1) * size)
    return places.to(CUDA)


def test_the_cpu_s_attention_agrees(triton: Ops) -> None:
    model: Any = Sizes()
    server = Server(model, pages=64, dtype=torch.float32)
    server.step({"a": prompt(600), "b": prompt(3)})
    step = server.step({"a": [1], "b": prompt(9)})
    latents, q = random(64 * 16, 192, dtype=torch.float32), random(10, 8, 192, seed=1, dtype=torch.float32)
    shape = AttentionShape(scale=0.1, value_size=128, pieces=1)
    fixed = FixedOps()
    wanted = fixed.attention(q.cpu(), latents.cpu(), fixed.plan_attention(step, server.cache), shape)
    there = Server(model, pages=64, dtype=torch.float32, device=CUDA)
    there.step({"a": prompt(600), "b": prompt(3)})
    plan = triton.plan_attention(there.step({"a": [1], "b": prompt(9)}), there.cache)
    assert torch.allclose(triton.attention(q, latents, plan, shape).cpu(), wanted, rtol=1e-4, atol=1e-5)

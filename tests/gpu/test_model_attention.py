"""Latent attention's kernels against PyTorch, and each row against itself in other batches, chunks and tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.workers.model.packing import CPU, NANO, Server, prompt
from workers.graphs import capture
from workers.model.cache import LatentCache
from workers.model.config import PRESETS, ModelConfig
from workers.model.fixed_ops import FixedOps
from workers.model.ops import AttentionShape, Ops
from workers.model.rope import RotaryEmbedding
from workers.model.step import Step
from workers.model.torch_ops import TorchOps

CUDA = torch.device("cuda")
WIDE = PRESETS["deepseek-v3-layer"]


@pytest.fixture(scope="module")
def triton() -> Ops:
    from workers.model.triton_ops import TritonOps

    return TritonOps()


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device=CUDA).to(dtype)


class Sizes:
    """What a server asks of a model whose forward pass isn't run."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config


def serve(config: ModelConfig, *, pages: int = 256, device: torch.device = CUDA, **more: Any) -> Server:
    model: Any = Sizes(config)
    return Server(model, pages=pages, device=device, **more)


def shape_of(config: ModelConfig) -> AttentionShape:
    return AttentionShape(scale=0.1, value_size=config.kv_lora_rank, pieces=1)


def attend(
    ops: Ops, q: torch.Tensor, latents: torch.Tensor, step: Step, cache: LatentCache, config: ModelConfig
) -> torch.Tensor:
    return ops.attention(q, latents, ops.plan_attention(step, cache.page_size), shape_of(config))


def assert_near(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (got.float() - wanted.float()).norm() < 5e-3 * wanted.float().norm()


SHAPES = [(NANO, 1), (NANO, 2), (NANO, 8), (WIDE, 16), (WIDE, 128)]


@pytest.mark.parametrize("config, heads", SHAPES, ids=[f"{c.kv_lora_rank}x{heads}" for c, heads in SHAPES])
def test_attention(triton: Ops, config: ModelConfig, heads: int) -> None:
    """Decode and prefill in one step, over one and over several splits; each sequence alone; a row of fewer heads."""
    work = {"a": [1], "b": prompt(70), "c": [1], "d": prompt(5), "e": [1]}
    context = {"a": prompt(1500), "b": prompt(600), "c": prompt(255), "e": prompt(3)}
    server = serve(config)
    latents = random(256 * 16, config.latent_size)
    server.step(context)
    step = server.step(work)
    q = random(len(step.tokens), heads, config.latent_size, seed=1)
    got = attend(triton, q, latents, step, server.cache, config)
    assert_near(got, attend(TorchOps(), q.float(), latents.float(), step, server.cache, config))
    assert torch.equal(attend(triton, q[:, :1], latents, step, server.cache, config), got[:, :1])
    twice = serve(config)
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
        assert torch.equal(attend(triton, q[rows], moved, half, twice.cache, config), got[rows])


def _places(server: Server, twice: Server) -> torch.Tensor:
    """For each slot of ``twice`` the slot of ``server`` that has the same token."""
    places = torch.arange(server.pages * server.page_size)
    for label, pages in twice.tables.items():
        for there, here in zip(pages, server.tables[label], strict=False):
            size = server.page_size
            places[there * size : (there + 1) * size] = torch.arange(here * size, (here + 1) * size)
    return places.to(CUDA)


@pytest.mark.parametrize("page_size", [16, 64, 128])
def test_one_program_for_all_splits_adds_as_many_do(triton: Ops, page_size: int) -> None:
    """A prompt has tiles enough for every SM; a token of it that is decoded has not, and each split has a program."""
    server, alone = (serve(WIDE, pages=1024 // page_size, page_size=page_size) for _ in range(2))
    latents, length = random(1024, WIDE.latent_size), 900
    step = server.step({"a": prompt(length)})
    q = random(length, 128, WIDE.latent_size, seed=1)
    whole = attend(triton, q, latents, step, server.cache, WIDE)
    assert_near(whole, attend(TorchOps(), q.float(), latents.float(), step, server.cache, WIDE))
    for position in range(length):
        decoded = alone.step({"a": [1]})
        if position % 16 in (0, 15) or position > 890:
            row = attend(triton, q[position, None], latents, decoded, alone.cache, WIDE)
            assert torch.equal(row[0], whole[position]), position


@pytest.mark.parametrize("batch", [1, 3, 70])
def test_a_graph_serves_shorter_sequences(triton: Ops, batch: int) -> None:
    server = serve(WIDE, pages=batch * 64)
    labels = [str(i) for i in range(batch)]
    server.step({label: prompt(600 + 5 * i) for i, label in enumerate(labels)})
    latents = random(batch * 1024, WIDE.latent_size)
    step = server.step({label: [1] for label in labels})
    q = random(batch, 128, WIDE.latent_size, seed=1)
    kept = attend(triton, q, latents, step, server.cache, WIDE)
    graph = capture(lambda: kept.copy_(attend(triton, q, latents, step, server.cache, WIDE)))
    assert graph is not None
    for less in (0, 100, 400, 599):
        step.positions.copy_(torch.tensor([600 + 5 * i - less for i in range(batch)]))
        graph.replay()
        assert_near(kept, attend(TorchOps(), q.float(), latents.float(), step, server.cache, WIDE))
        assert torch.equal(kept, attend(triton, q, latents, step, server.cache, WIDE))


def test_the_cpu_s_attention_agrees(triton: Ops) -> None:
    there, here = (serve(NANO, pages=64, dtype=torch.float32, device=device) for device in (CUDA, CPU))
    for server in (there, here):
        server.step({"a": prompt(600), "b": prompt(3)})
    latents, q = random(64 * 16, 192, dtype=torch.float32), random(10, 8, 192, seed=1, dtype=torch.float32)
    work = {"a": [1], "b": prompt(9)}
    got = attend(triton, q, latents, there.step(work), there.cache, NANO)
    wanted = attend(FixedOps(), q.cpu(), latents.cpu(), here.step(work), here.cache, NANO)
    assert torch.allclose(got.cpu(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("config", [NANO, WIDE], ids=["nano", "wide"])
def test_latents_and_queries(triton: Ops, config: ModelConfig, dtype: torch.dtype) -> None:
    """What is rotated, to the bit; what goes where; the norm as ``rms_norm`` has it."""
    tokens, slots = 200, torch.randperm(512, generator=torch.Generator().manual_seed(0))[:200].to(CUDA)
    tables = RotaryEmbedding(config, CUDA).tables(torch.arange(300, 500, device=CUDA))
    sizes = [config.kv_lora_rank, config.qk_rope_head_dim]
    c_kv, key = random(tokens, 64 + sum(sizes), dtype=dtype)[:, 64:].split(sizes, dim=1)
    weight = random(sizes[0], seed=1, dtype=dtype)
    latents = torch.zeros(2, 512, sum(sizes), dtype=dtype, device=CUDA)
    got = triton.latent(c_kv, key, weight, 1e-6, tables, latents[0], slots)
    wanted = TorchOps().latent(c_kv, key, weight, 1e-6, tables, latents[1], slots)
    assert_near(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])
    assert torch.equal(latents[0, slots], got[2]) and (latents[0] != 0).any(dim=1).sum() == tokens
    few = triton.latent(c_kv[:3], key[:3], weight, 1e-6, tables, latents[0], slots[:3])
    assert torch.equal(few[2], got[2][:3])

    heads = 20
    q_nope, q_rope = random(tokens, heads, 128 + sizes[1], dtype=dtype).split([128, sizes[1]], dim=2)
    key_up = random(heads, 128, sizes[0], seed=2, dtype=dtype)
    query = torch.zeros(2, tokens, heads, sum(sizes), dtype=dtype, device=CUDA)
    over_latent, rotated = query[0].split(sizes, dim=2)
    triton.head_matmul(q_nope, key_up, over_latent)
    assert torch.equal(over_latent, triton.head_matmul(q_nope, key_up)) and not rotated.any()
    triton.rotate(q_rope, tables, rotated)
    TorchOps().rotate(q_rope, tables, query[1, :, :, sizes[0] :])
    assert torch.equal(query[0, :, :, sizes[0] :], query[1, :, :, sizes[0] :])
    assert torch.equal(over_latent, triton.head_matmul(q_nope, key_up))

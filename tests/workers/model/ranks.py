"""What each process of a tensor-parallel group runs in tests, and the group itself on this host."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.workers.model.packing import CPU, Server, build, prompt
from workers.model.collectives import make_collective
from workers.model.numerics import Numerics
from workers.model.sharding import Ranks

FP32 = Numerics(None, torch.float32, deterministic=True)
FP8 = Numerics("invariant", torch.bfloat16, deterministic=True)
# Collective and numerics of the models that all ranks run.
CASES = {
    "nccl": ("nccl", FP32),
    "ordered": ("ordered", FP32),
    "tree": ("tree", FP32),
    "ordered in pieces": ("ordered", replace(FP8, tp_granularity=4)),
    "tree in pieces": ("tree", replace(FP8, tp_granularity=4)),
}
TOKENS = [1, 2, 3, 17, 64]


def logits(ranks: Ranks, case: str) -> torch.Tensor:
    """Of a prompt in two chunks, beside another sequence, and of one decoded token."""
    collective, numerics = CASES[case]
    model = build(numerics, ranks=ranks, collective=collective)
    server = Server(model, numerics.dtype, device=ranks.device)
    first = server.run({"a": prompt(40), "b": prompt(7, seed=1)})
    second = server.run({"b": [5], "a": prompt(30, seed=2)})
    return torch.cat((first, second))


def run_group(size: int, body: Callable[..., None], *args: Any, device: str = "cpu") -> None:
    """``body(ranks, *args)`` in ``size`` processes that are joined by gloo, or by NCCL with a GPU each.

    Processes without a GPU are forked off one that has imported torch, which takes 3 s.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.set_forkserver_preload(["torch"])
    start: Any = mp.start_processes  # type: ignore[attr-defined]
    method = "spawn" if device == "cuda" else "forkserver"
    start(_rank, (size, port, device, body, args), nprocs=size, start_method=method)


def save_all(ranks: Ranks, folder: Path) -> None:
    """Logits of every case, and sums of the first n rows of a pool by each collective that has an order."""
    results = {case: logits(ranks, case) for case in CASES}
    # In float32, where every order of four gives other bits; of bfloat16 a sum in float32 is mostly exact.
    pool = torch.randn(1, max(TOKENS), 96, generator=torch.Generator().manual_seed(ranks.rank))
    for name in ("ordered", "tree"):
        collective = make_collective(name, ranks)
        results |= {f"{name} sum {count}": collective.all_reduce(pool[:, :count]) for count in TOKENS}
    torch.save(results, folder / f"{ranks.rank}.pt")


def _rank(rank: int, size: int, port: int, device: str, body: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    own = CPU
    if device == "cuda":
        own = torch.device("cuda", rank)
        torch.cuda.set_device(own)
    backend = "gloo" if own is CPU else "nccl"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        body(Ranks(rank, size, own), *args)
    finally:
        dist.destroy_process_group()

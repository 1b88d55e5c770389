"""Collectives over NCCL and symmetric memory: as many ranks as there are GPUs, at least two."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.workers.model.ranks import run_group
from workers.model.collectives import make_collective, ordered_sum
from workers.model.sharding import Ranks

TOKENS = [1, 2, 3, 7, 16, 17, 64, 65, 512, 2048]
HIDDEN = 7168
REPEATS = 20


@pytest.fixture(scope="module")
def size() -> int:
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip(f"needs two GPUs, and torch sees {count}")
    return min(count, 8)


def pieces(rank: int, count: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(rank)
    return torch.randn(count, max(TOKENS), HIDDEN, generator=generator, device="cuda").bfloat16()


def check(ranks: Ranks, folder: Path) -> None:
    """Both in one group, since a process takes longer to start than to be tested."""
    check_gathers(ranks)
    (folder / f"{ranks.rank}").write_text(check_sums(ranks))


def check_sums(ranks: Ranks) -> str:
    """Every size against the same sum in order on one rank, again and again, while ranks come late by turns."""
    for count in (1, 2):
        everyone = torch.cat([pieces(rank, count) for rank in range(ranks.size)])
        wanted = ordered_sum(everyone)
        own = pieces(ranks.rank, count)
        collective = make_collective("ordered", ranks)
        for repeat in range(REPEATS):
            for tokens in TOKENS:
                if repeat % ranks.size == ranks.rank:
                    time.sleep(0.001)
                got = collective.all_reduce(own[:, :tokens])
                assert torch.equal(got, wanted[:tokens]), (count, tokens)
    return collective.implementation


def check_gathers(ranks: Ranks) -> None:
    for name in ("nccl", "ordered", "tree"):
        collective = make_collective(name, ranks)
        columns = torch.full((3, 5), float(ranks.rank), device=ranks.device)
        wanted = torch.arange(ranks.size, device=ranks.device).repeat_interleave(5).float().expand(3, -1)
        assert torch.equal(collective.all_gather(columns), wanted)
        total = collective.all_reduce(columns[None])
        assert torch.equal(total, torch.full_like(total, sum(range(ranks.size))))


def test_sums_and_gathers_on_all_gpus(size: int, tmp_path: Path) -> None:
    run_group(size, check, tmp_path, device="cuda")
    assert {file.read_text() for file in tmp_path.iterdir()} == {"symmetric_memory:ordered_sum"}

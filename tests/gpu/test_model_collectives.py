"""Collectives over NCCL and symmetric memory: as many ranks as there are GPUs, at least two."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import torch

from tests.workers.model.ranks import CASES, logits, run_group
from workers.model.collectives import Collective, make_collective, ordered_sum
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
    """All in one group, since a process takes longer to start than to be tested."""
    from workers.model import symmetric_memory

    check_gathers(ranks)
    for hop_bytes in (symmetric_memory._HOP_BYTES, -1):  # as it chooses, and two shots for every size
        symmetric_memory._HOP_BYTES = hop_bytes
        collective = make_collective("ordered", ranks)
        check_sums(ranks, collective)
        check_graphs(ranks, collective)
        check_odd_pieces(ranks, collective)
    (folder / f"{ranks.rank}").write_text(collective.implementation)


def check_sums(ranks: Ranks, collective: Collective) -> None:
    """Every size against the same sum in order on one rank, again and again, while ranks come late by turns."""
    for count in (1, 2):
        everyone = torch.cat([pieces(rank, count) for rank in range(ranks.size)])
        wanted = ordered_sum(everyone)
        own = pieces(ranks.rank, count)
        for repeat in range(REPEATS):
            for tokens in TOKENS:
                if repeat % ranks.size == ranks.rank:
                    time.sleep(0.001)
                got = collective.all_reduce(own[:, :tokens])
                assert torch.equal(got, wanted[:tokens]), (count, tokens)


def check_graphs(ranks: Ranks, collective: Collective) -> None:
    """An odd number of sums in a graph, replayed with other inputs and beside other calls, while ranks come late."""
    own = torch.zeros(1, max(TOKENS), HIDDEN, device="cuda").bfloat16()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        totals = [collective.all_reduce(own[:, :tokens]) for tokens in (3, 512, 64)]
    for repeat in range(REPEATS):
        if repeat % ranks.size == ranks.rank:
            time.sleep(0.001)
        everyone = torch.cat([pieces(rank + repeat, 1) for rank in range(ranks.size)])
        own.copy_(everyone[ranks.rank : ranks.rank + 1])
        wanted = ordered_sum(everyone)
        graph.replay()
        between = collective.all_reduce(own[:, : repeat + 1])
        graph.replay()
        for total in (*totals, between):
            assert torch.equal(total, wanted[: len(total)]), (repeat, len(total))


def check_odd_pieces(ranks: Ranks, collective: Collective) -> None:
    """Sizes and places that aren't a multiple of what a thread reads; every NaN, also the word that means nothing."""
    for dtype, tokens, width in itertools.product((torch.bfloat16, torch.float32), (0, 1, 3, 65), (1, 33, 64)):
        everyone = torch.stack([pieces(rank, 1)[0, :tokens, :width].to(dtype) for rank in range(ranks.size)])
        got = collective.all_reduce(everyone[ranks.rank : ranks.rank + 1])
        assert torch.equal(got, ordered_sum(everyone)), (dtype, tokens, width)
    words = torch.zeros(1, 1, 64, dtype=torch.int32, device="cuda")
    words[..., ranks.rank :: 8] = -1
    got = collective.all_reduce(words.view(torch.bfloat16))[0]
    assert torch.equal(got.isnan(), torch.arange(128, device="cuda") // 2 % 8 < ranks.size)


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


IN_PIECES = [case for case in CASES if case.endswith("in pieces")]


def save_logits(ranks: Ranks, folder: Path) -> None:
    torch.save({case: logits(ranks, case) for case in IN_PIECES}, folder / f"{ranks.rank}.pt")


def test_a_model_over_ranks_has_the_bits_of_one(size: int, tmp_path: Path) -> None:
    ranks = 2 if size < 4 else 4
    run_group(ranks, save_logits, tmp_path, device="cuda")
    alone = {case: logits(Ranks(0, 1, torch.device("cuda", 0)), case).cpu() for case in IN_PIECES}
    for rank in range(ranks):
        found = torch.load(tmp_path / f"{rank}.pt", map_location="cpu")
        assert all(torch.equal(found[case], alone[case]) for case in IN_PIECES), rank

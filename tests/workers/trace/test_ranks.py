"""Two ranks over gloo, of which one has a fault: its operation is blamed, and not what the others made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workers.model.packing import NANO
from tests.workers.model.ranks import run_group
from tests.workers.trace.tracing import FIXED, Server, request
from workers.model.collectives import OrderedCollective, _gathered, ordered_sum
from workers.model.sharding import Ranks
from workers.model.weights import WHOLE, RandomWeights
from workers.trace.compare import Parting, first_parting
from workers.trace.trace import Instance, Trace

FAULTY = 1
WEIGHT = "model.layers.1.self_attn.o_proj.weight"
PIECES = replace(FIXED, tp_granularity=4)


class OneBit(RandomWeights):
    """Weights of which one has a bit flipped."""

    def read(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> torch.Tensor:
        weight = super().read(name, rows, columns)
        if name == WEIGHT:
            codes = weight.view(torch.uint8)
            row, column = divmod(int((codes & 0x70 == 0x30).flatten().long().argmax()), codes.shape[1])
            codes[row, column] ^= 0x04
        return weight


class Backwards(OrderedCollective):
    """Adds the last piece first."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks)
        self.implementation = "backwards"

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        return ordered_sum(_gathered(pieces, self._ranks).flatten(0, 1).flip(0))


def save_traces(ranks: Ranks, folder: Path) -> None:
    """Of one request each: as it should be, then with each fault on rank 1."""
    faulty = ranks.rank == FAULTY
    servers = {
        "clean": Server(PIECES, ranks),
        "weight": Server(PIECES, ranks, source=OneBit(NANO, 7, ranks.device) if faulty else None),
        "collective": Server(PIECES, ranks, Backwards(ranks) if faulty else None),
    }
    torch.save({name: server.trace(request("a")) for name, server in servers.items()}, folder / f"{ranks.rank}.pt")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Trace]]:
    folder = tmp_path_factory.mktemp("traces")
    run_group(2, save_traces, folder)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return {name: [rank[name] for rank in ranks] for name in ranks[0]}


def parted(traces: dict[str, list[Trace]], fault: str) -> Parting:
    found = first_parting(Instance(traces["clean"], 0, "a"), Instance(traces[fault], 0, "a"))
    assert found is not None and found.inputs_equal
    return found


def test_one_bit_of_one_ranks_weight(traces: dict[str, list[Trace]]) -> None:
    found = parted(traces, "weight")
    # Rank 1 has pieces 2 and 3, and the bit is in the first one's columns.
    assert (found.rank, found.ops[0].name) == (FAULTY, "layers.1.self_attn.o_proj.2")
    assert not found.weights_equal


def test_one_rank_adds_in_another_order(traces: dict[str, list[Trace]]) -> None:
    found = parted(traces, "collective")
    assert found.rank == FAULTY and found.weights_equal
    assert found.ops[0].name == "layers.0.self_attn.all_reduce"  # the embedding's other addends are zero
    assert [op.implementation for op in found.ops] == ["all_gather+ordered_sum", "backwards"]


def test_both_ranks_agree_where_there_is_no_fault(traces: dict[str, list[Trace]]) -> None:
    clean = traces["clean"]
    assert first_parting(Instance(clean, 0, "a"), Instance(clean[::-1], 0, "a")) is None

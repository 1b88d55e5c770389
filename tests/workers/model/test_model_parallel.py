"""Two and four ranks over gloo against one."""

from __future__ import annotations

import pytest
import torch

from specs.errors import UsageError
from tests.workers.model.packing import ALONE, CPU, DETERMINISTIC, build
from tests.workers.model.ranks import CASES, TOKENS, logits, run_group, save_all
from workers.model.collectives import make_collective, ordered_sum, tree_sum
from workers.model.sharding import Pieces, Ranks, pieces_of

Results = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each rank of a group computed."""
    folder = tmp_path_factory.mktemp("ranks")
    run_group(request.param, save_all, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return {case: logits(ALONE, case) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_ranks_agree_with_each_other_and_with_one(ranks: Results, alone: dict[str, torch.Tensor], case: str) -> None:
    assert all(torch.equal(rank[case], ranks[0][case]) for rank in ranks)
    assert torch.allclose(ranks[0][case], alone[case], rtol=1e-4, atol=1e-4)
    # In pieces to the bit; without, not even a sum of two is that of one, which proves that the first can fail.
    assert torch.equal(ranks[0][case], alone[case]) == case.endswith("in pieces")


@pytest.mark.parametrize("name", ["ordered", "tree"])
def test_sums_do_not_depend_on_the_rank_or_the_number_of_tokens(ranks: Results, name: str) -> None:
    whole = ranks[0][f"{name} sum {max(TOKENS)}"]
    for count in TOKENS:
        assert all(torch.equal(rank[f"{name} sum {count}"], whole[:count]) for rank in ranks)


def test_the_orders_of_sums() -> None:
    # In bfloat16, 256 + 1 is 256 again.
    pieces = torch.tensor([256.0, 1.0, 1.0, 1.0]).bfloat16()[:, None]
    assert ordered_sum(pieces).item() == 260.0  # 259, rounded once
    assert tree_sum(pieces).item() == 258.0  # (256 + 1) + (1 + 1)
    assert tree_sum(pieces[1:]).item() == 3.0  # (1 + 1) + 1
    assert ordered_sum(pieces[:1]).item() == tree_sum(pieces[:1]).item() == 256.0


def test_ordered_adds_in_order_of_ranks() -> None:
    pieces = torch.tensor([1.0, 2.0**24, -(2.0**24)])[:, None]
    assert ordered_sum(pieces).item() == 0.0
    assert ordered_sum(pieces.flip(0)).item() == 1.0


def test_pieces_of_a_rank() -> None:
    assert pieces_of(Ranks(1, 2, CPU), 1) == Pieces(total=2, first=1, count=1)
    second = pieces_of(Ranks(1, 2, CPU), 8)
    assert second == Pieces(total=8, first=4, count=4) and list(second) == [4, 5, 6, 7]
    assert second.part(80, 5) == slice(50, 60) and second.own(80) == slice(40, 80)


@pytest.mark.parametrize(("size", "granularity"), [(1, 0), (1, 3), (4, 2), (3, 4)])
def test_pieces_that_can_not_be_shared_out(size: int, granularity: int) -> None:
    with pytest.raises(
        UsageError, match=f"tp_granularity is {granularity} with {size} ranks; allowed are 1 and powers"
    ):
        pieces_of(Ranks(0, size, CPU), granularity)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"collective is 'ring'; allowed are nccl, nccl-pinned, ordered, tree"):
        make_collective("ring", ALONE)
    with pytest.raises(UsageError, match="can't be cut into 8 equal parts"):
        build(DETERMINISTIC, ranks=Ranks(0, 8, CPU), collective="tree")

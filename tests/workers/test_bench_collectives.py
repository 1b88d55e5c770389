from __future__ import annotations

from itertools import product

import pytest
import torch

from workers import bench_collectives as bench
from workers.bench_collectives import GROUPS, Setting, bench_collectives


def test_every_collective_at_every_size() -> None:
    times, failures = bench_collectives(Setting(2, "cpu", 64, (1, 5)))
    assert not failures
    names = [name for group in GROUPS for name in group]
    assert [(one.collective, one.tokens) for one in times] == list(product(names, (1, 5)))
    assert all(one.call_seconds > 0 and one.graph_seconds is None for one in times)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_ranks_that_fail_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "GROUPS", GROUPS[:1])
    times, failures = bench_collectives(Setting(2, "cuda", 64))
    assert not times
    assert failures.keys() == {"nccl, tree, ordered"}
    assert all("rank " in told and "Error" in told for told in failures.values())


def test_ranks_that_hang_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "GROUP_SECONDS", 0.2)  # before they have imported torch
    times, failures = bench_collectives(Setting(2, "cpu", 64))
    assert not times
    assert all("[None, None]" in told for told in failures.values()) and len(failures) == 2

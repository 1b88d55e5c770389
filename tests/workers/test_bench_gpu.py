from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
import torch

from specs.job import OWN_VARIANTS
from specs.shapes import Shape
from workers.bench_gpu import TARGETS, Cell, bench_gpu, speed_shapes, warm_deep_gemm
from workers.ceilings import Rates
from workers.errors import KernelError
from workers.gemm.target import Call
from workers.timing import LaunchTimes

CPU = torch.device("cpu")
RATES = Rates(1e11, 1e12, "measured")
SHAPES = (Shape(1, 256, 136), Shape(5, 256, 136), Shape(2, 128, 64))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[Call]]]:
    """What would have been timed, of each cell; two copies of the weights, and no GPU."""
    seen: list[dict[str, list[Call]]] = []

    def noted(rotations: dict[str, list[Call]], *, turns: int) -> dict[str, LaunchTimes]:
        seen.append(rotations)
        return {name: LaunchTimes((1e-3,) * turns, 2, captured=True) for name in rotations}

    monkeypatch.setattr("workers.bench_gpu.rotated", lambda inputs: [inputs, inputs])
    monkeypatch.setattr("workers.bench_gpu.time_launches", noted)
    return seen


def cells(*targets: str) -> list[Cell]:
    return list(bench_gpu(SHAPES, CPU, RATES, targets))


def test_every_target_is_timed_with_all_copies_or_says_why_not(timed: list[dict[str, list[Call]]]) -> None:
    found = cells("invariant", "persistent", "deep-gemm")
    assert [cell.shape for cell in found] == list(SHAPES)
    for cell, rotations in zip(found, timed, strict=True):
        assert list(cell.times) == ["invariant", "persistent"]
        assert "Hopper" in cell.unsupported["deep-gemm"]
        assert cell.floor_seconds > 0
        for calls in rotations.values():
            assert [tuple(call().shape) for call in calls] == [(cell.shape.m, cell.shape.n)] * 2


def test_a_wrong_product_has_no_time(timed: list[dict[str, list[Call]]]) -> None:
    for cell in cells("invariant", "python:tests.targets:inaccurate", "python:tests.targets:right"):
        assert list(cell.times) == ["invariant", "python:tests.targets:right"]
        assert "relative error" in cell.unsupported["python:tests.targets:inaccurate"]


def test_a_peer_may_fail_and_a_kernel_of_ours_may_not(
    timed: list[dict[str, list[Call]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_given: Any) -> torch.Tensor:
        raise KernelError("launch failed: out of luck")

    monkeypatch.setattr("tests.targets.right", failing)
    (first, *_) = cells("python:tests.targets:right")
    assert first.unsupported == {"python:tests.targets:right": "failed: KernelError: launch failed: out of luck"}
    monkeypatch.setattr("workers.gemm.native.multiply", failing)
    with pytest.raises(KernelError, match="out of luck"):
        cells("invariant")


def test_the_table_has_77_shapes_and_weights_stay_together() -> None:
    shapes = speed_shapes()
    assert len(shapes) == len(set(shapes)) == 77
    assert len(list(groupby(shapes, key=lambda shape: (shape.k, shape.n)))) == 11
    assert set(OWN_VARIANTS) < set(TARGETS)


def test_nothing_is_warmed_where_deep_gemm_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_given: Any, **_named: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.run", started)
    warm_deep_gemm(SHAPES, CPU)

from __future__ import annotations

import json

import pytest
import torch

from orchestrator.speed import cell_record, cost_of_determinism, speed_document, summary
from specs.shapes import Shape
from workers.bench_gpu import Cell
from workers.ceilings import Rates
from workers.environment import capture
from workers.timing import LaunchTimes

RATES = Rates(4e12, 1.5e15, "measured")


def cell(m: int, floor: float = 2.0, **microseconds: float) -> Cell:
    """Targets by name, with _ for -; three turns around each time."""
    times = {
        name.replace("_", "-"): LaunchTimes((0.9e-6 * us, 1e-6 * us, 1.2e-6 * us), 100, captured=True)
        for name, us in microseconds.items()
    }
    return Cell(Shape(m, 7168, 2112), floor * 1e-6, times, {"sgl-kernel": "n = 2112: not today"})


CELLS = [
    cell(1, invariant=5.0, persistent=8.0, streamk=10.0, deep_gemm=10.0, torch_scaled_mm=15.0),
    cell(128, invariant=8.0, persistent=8.0, streamk=4.0, deep_gemm=6.0, torch_scaled_mm=4.0),
    cell(512, floor=4.0, invariant=10.0, streamk=5.0, deep_gemm=9.0, sgl_kernel=20.0),
    cell(2048, floor=9.0, invariant=10.0, deep_gemm=16.0),
]


def test_ratios_are_of_the_fastest_peer_and_not_of_our_own_variants() -> None:
    found = summary(CELLS)
    assert found["cells"] == 4
    assert found["geomean_small_m"] == pytest.approx((10 / 5 * 4 / 8) ** 0.5)
    assert found["geomean_large_m"] == pytest.approx((9 / 10 * 16 / 10) ** 0.5)
    assert found["worst_cell"] == {"ratio": pytest.approx(0.5), "shape": [128, 7168, 2112], "peer": "torch-scaled-mm"}


def test_percent_of_floor() -> None:
    found = summary(CELLS)["percent_of_floor"]
    assert (found["min"], found["median"]) == (pytest.approx(25), pytest.approx(40))
    assert found["per_m"]["2048"] == {"min": pytest.approx(90), "median": pytest.approx(90)}
    assert list(found["per_m"]) == ["1", "128", "512", "2048"]


def test_determinism_costs_what_it_costs_in_each_shape() -> None:
    found = cost_of_determinism(CELLS)
    assert [row["invariant"] for row in found["shapes"]] == [
        {"streamk": pytest.approx(0.5)},
        {"streamk": pytest.approx(2.0)},
        {"streamk": pytest.approx(2.0), "sgl-kernel": pytest.approx(0.5)},
        {},
    ]
    assert found["shapes"][1]["persistent"] == {"streamk": pytest.approx(2.0)}
    assert found["shapes"][2]["persistent"] == {}
    assert found["geomean"]["invariant"] == {"streamk": pytest.approx(2 ** (1 / 3)), "sgl-kernel": pytest.approx(0.5)}
    assert found["geomean"]["persistent"] == {"streamk": pytest.approx(1.6**0.5), "sgl-kernel": None}


def test_nothing_is_made_up_where_nothing_was_compared() -> None:
    alone = [cell(1, invariant=5.0), cell(8, deep_gemm=4.0)]
    assert summary(alone)["cells"] == 0
    assert summary(alone)["worst_cell"] is None
    assert summary(alone)["geomean_small_m"] is None
    assert summary([])["percent_of_floor"] == {"min": None, "median": None, "per_m": {}}


def test_a_cell_says_what_it_was_and_what_it_was_not() -> None:
    record = cell_record(CELLS[0])
    assert record["shape"] == [1, 7168, 2112]
    assert record["percent_of_floor"] == pytest.approx(40)
    assert record["unsupported"] == {"sgl-kernel": "n = 2112: not today"}
    assert record["targets"]["deep-gemm"] == {
        "median_seconds": pytest.approx(10e-6),
        "quartiles_seconds": [pytest.approx(9.5e-6), pytest.approx(11e-6)],
        "launches": 300,
        "captured": True,
    }


def test_the_document_is_json_with_the_summary_before_the_cells() -> None:
    document = speed_document(capture(torch.device("cpu"), "key"), RATES, RATES, CELLS[:1])
    assert list(json.loads(json.dumps(document, allow_nan=False))) == [
        "environment",
        "summary",
        "cost_of_determinism",
        "ceilings",
        "cells",
    ]
    assert len(document["cells"]) == 1

from __future__ import annotations

import pytest

from specs.shapes import Shape
from workers.ceilings import Rates, floor_seconds, rates_for

MEASURED = Rates(4.2e12, 1.5e15, "measured")


@pytest.mark.parametrize(
    ("m", "n", "k", "microseconds"),
    [(1, 2112, 7168, 3.2), (128, 24576, 1536, 9.2), (4096, 4608, 7168, 136.7), (2048, 576, 7168, 8.5)],
)
def test_the_floor_is_the_fact_tables(m: int, n: int, k: int, microseconds: float) -> None:
    h200 = rates_for("NVIDIA H200", MEASURED)
    assert floor_seconds(Shape(m, k, n), 2, h200) * 1e6 == pytest.approx(microseconds, abs=0.05)


def test_the_datasheet_is_told_apart_from_what_was_measured() -> None:
    assert rates_for("NVIDIA H200", MEASURED).source == "datasheet of NVIDIA H200"
    assert rates_for("NVIDIA H100 80GB HBM3", MEASURED).bytes == 3.35e12
    assert rates_for("NVIDIA GH200 480GB", MEASURED) is MEASURED

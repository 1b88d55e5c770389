"""The plots' geometry: what is longer is drawn longer, and nothing leaves the picture."""

from __future__ import annotations

import math

import pytest

from orchestrator.report.plots import CHARACTER, heat_map, times, unique_bars
from orchestrator.report.words import Line
from specs.result import Outcome, Timing
from tests.orchestrator import builders
from tests.orchestrator.builders import SENSITIVE, SMALL, verdict


def flipped(unique: int, variant: str = "streamk", total: int = 1000, flips: int = 500) -> Line:
    return Line(verdict(variant, Outcome.NONDETERMINISTIC, unique=unique, total=total, flips=flips), None)


def test_a_square_shows_the_share_of_flips() -> None:
    squares = heat_map([flipped(2, "a", flips=1), flipped(2, "b", flips=500), Line(verdict("c"), None)]).cells
    assert [(cell.text, cell.kind) for cell in squares] == [
        ("< 1 %", "nondeterministic"),
        ("50 %", "nondeterministic"),
        ("0", "deterministic"),
    ]
    assert squares[0].share < squares[1].share < squares[2].share == 1.0


def test_a_square_shows_the_worst_of_its_strata() -> None:
    lines = [Line(verdict(stratum="H100"), None), flipped(3, "invariant"), Line(verdict(stratum="H200"), None)]
    (cell,) = heat_map(lines).cells
    assert cell.kind == "nondeterministic"


def test_rows_are_variants_and_columns_shapes() -> None:
    lines = [Line(verdict(name, subject=shape), None) for name in ("a", "b") for shape in (SMALL, SENSITIVE)]
    drawn = heat_map(lines)
    assert [label.text for label in drawn.rows] == ["a run_to_run bf16", "b run_to_run bf16"]
    assert [label.text for label in drawn.columns] == [str(SMALL), str(SENSITIVE)]
    assert len({cell.x for cell in drawn.cells}) == 2 and len({cell.y for cell in drawn.cells}) == 2
    assert max(cell.x for cell in drawn.cells) + drawn.size <= drawn.width
    assert max(cell.y for cell in drawn.cells) + 22 <= drawn.height


def test_bars_grow_with_the_number_of_distinct_results() -> None:
    one, two, many, most = unique_bars([flipped(unique) for unique in (1, 2, 100, 1000)]).bars
    assert one.width < two.width < many.width < most.width
    assert [bar.text for bar in (one, most)] == ["1 of 1000", "1000 of 1000"]


def test_of_many_groups_only_those_that_flipped_have_bars() -> None:
    lines = [Line(verdict(f"v{number}"), None) for number in range(40)]
    bars = unique_bars([*lines, flipped(3)])
    assert ([bar.text for bar in bars.bars], bars.hidden) == (["3 of 1000"], 40)
    assert unique_bars(lines[:30]).hidden == 0


def test_a_median_stands_between_its_quartiles_on_the_scale_of_its_shape() -> None:
    def line(variant: str, median: float, q1: float, q3: float) -> Line:
        timing = Timing(launches=9, median=median, q1=q1, q3=q3)
        return Line(verdict(variant), builders.speed(variant, timing=timing))

    (axis,) = times(
        [line("a", 1.0, 0.5, 2.0), line("b", 3.0, 2.0, 4.0), line("nan", math.nan, math.nan, math.nan)]
    ).axes
    assert axis.limit == "4.00 s"
    a, b = axis.whiskers
    assert axis.left < a.low < a.middle < a.high < b.middle < b.high == axis.right
    assert (a.middle - axis.left) / (axis.right - axis.left) == pytest.approx(0.25)


def test_a_long_variant_loses_its_middle_and_keeps_its_title() -> None:
    name = "python:package.kernels.experimental:function"
    (label,) = heat_map([Line(verdict(name), None)]).rows
    assert label.text == "python:packag…ntal:function run_to_run bf16"
    assert label.title == f"{name} run_to_run bf16"
    assert label.x >= len(label.text) * CHARACTER


def test_nothing_to_draw_is_no_error() -> None:
    assert (heat_map([]).cells, unique_bars([]).bars, times([]).axes) == ([], [], [])

"""Where things stand in the plots of the HTML report: geometry only, in pixels; the template draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.report.words import Line, cost_words, group_words, seconds_words, timing_words, verdict_words
from specs.result import WORST_FIRST, Outcome, Verdict

CHARACTER = 7.3
"""Width of one at the font size of the plots."""
ROW = 22
_VARIANT_AT_MOST = 28
_BARS_AT_MOST = 30
_BAR = 420
_CELL = 64
_MARKS = {
    Outcome.DETERMINISTIC: "0",
    Outcome.INCONCLUSIVE: "?",
    Outcome.UNSUPPORTED: "–",  # noqa: RUF001
    Outcome.ERROR: "!",
}


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str
    title: str


@dataclass(frozen=True)
class Cell:
    """One square of the heat map. ``share`` of its samples flipped, from 0 to 1; it is a strength of colour."""

    x: float
    y: float
    kind: str
    share: float
    text: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    width: float
    height: float
    size: int
    rows: list[Label]
    columns: list[Label]
    cells: list[Cell]


@dataclass(frozen=True)
class Bar:
    label: Label
    x: float
    y: float
    width: float
    kind: str
    text: str


@dataclass(frozen=True)
class Bars:
    width: float
    height: float
    bars: list[Bar]
    hidden: int
    """Groups with one distinct result that are not drawn."""


@dataclass(frozen=True)
class Whisker:
    """A median between its quartiles."""

    label: Label
    y: float
    low: float
    middle: float
    high: float
    kind: str
    text: str


@dataclass(frozen=True)
class Axis:
    """One shape and dtype: its variants share a scale, from 0 to ``limit`` at the right end."""

    label: Label
    left: float
    right: float
    bottom: float
    limit: str
    whiskers: list[Whisker]


@dataclass(frozen=True)
class Times:
    width: float
    height: float
    axes: list[Axis]


def heat_map(lines: list[Line]) -> HeatMap:
    """Variant, property and dtype downwards, shapes across; a square shows the worst of its strata."""
    columns = list(dict.fromkeys(str(line.verdict.subject) for line in lines))
    found: dict[tuple[str, str], dict[str, Verdict]] = {}
    for line in lines:
        verdict = line.verdict
        row = found.setdefault((verdict.variant, f"{verdict.property} {verdict.dtype}"), {})
        shape = str(verdict.subject)
        row[shape] = min(row.get(shape, verdict), verdict, key=lambda v: WORST_FIRST.index(v.outcome))
    left = _label_width(found)
    top = max((len(shape) for shape in columns), default=0) * CHARACTER * 0.6 + 16
    cells = [
        _cell(verdict, left + columns.index(shape) * _CELL, top + place * ROW)
        for place, row in enumerate(found.values())
        for shape, verdict in row.items()
    ]
    return HeatMap(
        width=left + len(columns) * _CELL + 90,
        height=top + len(found) * ROW + 4,
        size=_CELL,
        rows=[_label(left - 8, top + place * ROW + 15, *name) for place, name in enumerate(found)],
        columns=[Label(left + place * _CELL + 24, top - 8, name, name) for place, name in enumerate(columns)],
        cells=cells,
    )


def unique_bars(lines: list[Line]) -> Bars:
    """Distinct results of each group on a logarithmic scale; of many groups only those that flipped."""
    counted = [line.verdict for line in lines if line.verdict.total]
    shown = counted if len(counted) <= _BARS_AT_MOST else [verdict for verdict in counted if verdict.unique > 1]
    names = [(verdict.variant, f"{verdict.subject} {verdict.dtype} {verdict.property}") for verdict in shown]
    left = _label_width(names)
    most = max((verdict.unique for verdict in shown), default=1)
    scale = _BAR / math.log(max(most, 10))
    bars = [
        Bar(
            label=_label(left - 8, place * ROW + 15, *names[place]),
            x=left,
            y=place * ROW + 4,
            width=max(2.0, math.log(max(1, verdict.unique)) * scale),
            kind=kind(verdict),
            text=f"{verdict.unique} of {verdict.total}",
        )
        for place, verdict in enumerate(shown)
    ]
    return Bars(left + _BAR + 130, len(shown) * ROW + 4, bars, hidden=len(counted) - len(shown))


def times(lines: list[Line]) -> Times:
    """Median and quartiles of every variant, one scale for each shape, dtype and stratum."""
    measured: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line.speed is not None and math.isfinite(line.speed.timing.q3):
            speed = line.speed
            where = f"{speed.shape} {speed.dtype}, {speed.stratum}"
            measured.setdefault(where, {}).setdefault(speed.variant, line)
    left = _label_width([(variant, "") for rows in measured.values() for variant in rows])
    axes: list[Axis] = []
    y = 0.0
    for where, rows in measured.items():
        axes.append(_axis(where, rows, left, y))
        y = axes[-1].bottom + 22
    return Times(width=left + _BAR + 380, height=y + 4, axes=axes)


def kind(verdict: Verdict) -> str:
    """Its class in the style sheet: a flip that was expected is no alarm."""
    if verdict.outcome is Outcome.NONDETERMINISTIC and verdict.met:
        return "allowed"
    return verdict.outcome.value


def _axis(where: str, rows: dict[str, Line], left: float, top: float) -> Axis:
    timings = {variant: line.speed.timing for variant, line in rows.items() if line.speed}
    limit = max(max(timing.q3, timing.median) for timing in timings.values()) or 1.0
    scale = _BAR / limit
    whiskers = []
    for place, (variant, line) in enumerate(rows.items()):
        assert line.speed is not None
        timing, y, cost = timings[variant], top + (place + 1) * ROW, line.speed.cost
        whiskers.append(
            Whisker(
                label=_label(left - 8, y + 15, variant, ""),
                y=y + 11,
                low=left + timing.q1 * scale,
                middle=left + timing.median * scale,
                high=left + timing.q3 * scale,
                kind=kind(line.verdict),
                text=timing_words(timing) + (f", cost {cost_words(cost)}" if cost is not None else ""),
            )
        )
    heading = Label(x=4, y=top + 15, text=where, title=where)
    return Axis(heading, left, left + _BAR, top + (len(rows) + 1) * ROW, seconds_words(limit), whiskers)


def _cell(verdict: Verdict, x: float, y: float) -> Cell:
    share = verdict.flips / verdict.total if verdict.total else 0.0
    flipped = verdict.outcome is Outcome.NONDETERMINISTIC
    percent = f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
    return Cell(
        x=x,
        y=y,
        kind=kind(verdict),
        share=0.3 + 0.7 * share if flipped else 1.0,
        text=percent if flipped else _MARKS[verdict.outcome],
        title=f"{group_words(verdict)}: {verdict_words(verdict)}",
    )


def _label_width(names: Iterable[tuple[str, str]]) -> float:
    return max((len(_label(0, 0, *name).text) for name in names), default=0) * CHARACTER + 16


def _label(x: float, y: float, variant: str, rest: str) -> Label:
    """A long variant loses its middle: python:package.module:function names differ at their ends."""
    half = (_VARIANT_AT_MOST - 1) // 2
    short = variant if len(variant) <= _VARIANT_AT_MOST else f"{variant[:half]}…{variant[-half:]}"
    return Label(x, y, f"{short} {rest}".strip(), f"{variant} {rest}".strip())

"""From the times of a GPU bench to its document: ratios to the fastest peer, to the floor, and what order costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from specs.job import PEER_VARIANTS
from specs.result import Environment

if TYPE_CHECKING:
    from workers.bench_gpu import Cell
    from workers.ceilings import Rates

OURS = "invariant"
MOST_SMALL_M = 128
LEAST_LARGE_M = 512
NONDETERMINISTIC = ("streamk", "sgl-kernel")
DETERMINISTIC = (OURS, "persistent")


def speed_document(environment: Environment, measured: Rates, floor: Rates, cells: Sequence[Cell]) -> dict[str, Any]:
    """All of `farm bench` on a GPU; ``cells`` may be the first few of a bench that is still going on."""
    return {
        "environment": environment.model_dump(mode="json"),
        "summary": summary(cells),
        "cost_of_determinism": cost_of_determinism(cells),
        "ceilings": {
            "copy_bytes_per_second": measured.bytes,
            "fp8_flops_per_second": measured.flops,
            "floor": {"bytes_per_second": floor.bytes, "flops_per_second": floor.flops, "source": floor.source},
        },
        "cells": [cell_record(cell) for cell in cells],
    }


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """Ratios are the fastest peer's time over the invariant kernel's: above 1, ours is faster. None: no such cell."""
    compared = [(cell, *peer) for cell in cells if (peer := against_peers(cell)) is not None]
    worst = min(compared, key=lambda found: found[2], default=None)
    percents = [(cell.shape.m, percent) for cell in cells if (percent := percent_of_floor(cell)) is not None]
    per_m = {str(m): _spread(percent for tokens, percent in percents if tokens == m) for m in sorted(dict(percents))}
    return {
        "cells": len(compared),
        "geomean_small_m": _geomean(ratio for cell, _, ratio in compared if cell.shape.m <= MOST_SMALL_M),
        "geomean_large_m": _geomean(ratio for cell, _, ratio in compared if cell.shape.m >= LEAST_LARGE_M),
        "worst_cell": worst and {"ratio": worst[2], "shape": _shape(worst[0]), "peer": worst[1]},
        "percent_of_floor": _spread(percent for _, percent in percents) | {"per_m": per_m},
    }


def cost_of_determinism(cells: Sequence[Cell]) -> dict[str, Any]:
    """Times of the deterministic kernels over those of the nondeterministic ones: above 1, determinism costs."""
    over = {ours: [_over(cell, ours) for cell in cells] for ours in DETERMINISTIC}
    return {
        "geomean": {
            ours: {other: _geomean(row[other] for row in rows if other in row) for other in NONDETERMINISTIC}
            for ours, rows in over.items()
        },
        "shapes": [
            {"shape": _shape(cell)} | dict(zip(over, rows, strict=True))
            for cell, *rows in zip(cells, *over.values(), strict=True)
        ],
    }


def cell_record(cell: Cell) -> dict[str, Any]:
    """One cell as the document has it."""
    return {
        "shape": _shape(cell),
        "floor_seconds": cell.floor_seconds,
        "percent_of_floor": percent_of_floor(cell),
        "targets": {
            name: {
                "median_seconds": times.median,
                "quartiles_seconds": list(times.quartiles),
                "launches": times.launches * len(times.seconds),
                "captured": times.captured,
            }
            for name, times in cell.times.items()
        },
        "unsupported": cell.unsupported,
    }


def against_peers(cell: Cell) -> tuple[str, float] | None:
    """The fastest peer, and its time over ours; None where one of them has none."""
    peers = [(cell.times[name].median, name) for name in PEER_VARIANTS if name in cell.times]
    if not peers or OURS not in cell.times:
        return None
    seconds, name = min(peers)
    return name, seconds / cell.times[OURS].median


def percent_of_floor(cell: Cell) -> float | None:
    """100 where our kernel takes no longer than the hardware has to."""
    return 100.0 * cell.floor_seconds / cell.times[OURS].median if OURS in cell.times else None


def _over(cell: Cell, ours: str) -> dict[str, float]:
    if ours not in cell.times:
        return {}
    mine = cell.times[ours].median
    return {other: mine / cell.times[other].median for other in NONDETERMINISTIC if other in cell.times}


def _geomean(ratios: Iterable[float]) -> float | None:
    found = list(ratios)
    return statistics.geometric_mean(found) if found else None


def _spread(values: Iterable[float]) -> dict[str, Any]:
    found = list(values)
    return {"min": min(found, default=None), "median": statistics.median(found) if found else None}


def _shape(cell: Cell) -> list[int]:
    return [cell.shape.m, cell.shape.k, cell.shape.n]

"""Where groups parted and what ran, of several units."""

from __future__ import annotations

from typing import Any

from orchestrator.blame import coverage, divergences
from specs.result import Coverage
from tests.orchestrator.builders import STRATUM, divergence, result


def ran(operations: int, implementation: str = "farm:streamk") -> Coverage:
    return Coverage(
        variant="streamk", kind="fp8_gemm", implementation=implementation, operations=operations, outside=False
    )


def test_the_first_unit_that_kept_the_operation_speaks_for_a_group() -> None:
    bare, full, later = (divergence(**changes) for changes in ({"artefact": None}, {"rank": 1}, {"rank": 2}))
    found = divergences(
        [
            result(2, divergences=[later]),
            result(0, divergences=[bare]),
            result(1, divergences=[full, divergence(op="x")]),
        ]
    )
    ((group, stratum),) = found
    assert (group.variant, stratum, found[group, stratum]) == ("streamk", STRATUM, full)


def test_a_difference_with_no_known_origin_gives_way() -> None:
    changes: dict[str, Any] = {"inputs_equal": False}
    found = divergences([result(0, divergences=[divergence(**changes)]), result(1, divergences=[divergence()])])
    assert list(found.values()) == [divergence()]


def test_what_ran_is_added_up() -> None:
    found = coverage([result(0, coverage=[ran(3)]), result(1, coverage=[ran(4), ran(1, "sgl-kernel")])])
    assert found == [ran(7), ran(1, "sgl-kernel")]

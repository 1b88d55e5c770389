from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.progress import Counter, showing
from tests.orchestrator.builders import result, unit


def test_time_left_is_scaled_by_how_long_units_took() -> None:
    counter = Counter([unit(index, estimate_s=2.0) for index in range(4)], workers=2)
    counter.advance(unit(0, estimate_s=2.0), result(0, seconds=6.0), flips=3)
    assert counter.left_s == pytest.approx(3 * 2.0 * 3 / 2)
    assert str(counter) == "50 trials · 3 flips · 9 s left"


def test_a_unit_that_was_given_up_counts_no_trials() -> None:
    counter = Counter([unit(0)], workers=1)
    counter.advance(unit(0), None, flips=0)
    assert (counter.done, counter.trials) == (1, 0)


def test_without_a_terminal_the_last_line_is_printed_whole() -> None:
    written = io.StringIO()
    with showing(Console(file=written, width=100), [unit(0), unit(1)], workers=1) as progress:
        progress.advance(unit(0), result(0), 0)
        assert written.getvalue() == ""
        progress.note("worker 0 was replaced")
        progress.advance(unit(1), result(1), 2)
    assert written.getvalue().splitlines() == [
        "worker 0 was replaced",
        "2/2 units · 100 trials · 2 flips · 0 s left",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with showing(console, [unit(0)], workers=1) as progress:
        progress.advance(unit(0), result(0), 7)
    assert "7 flips" in written.getvalue()
    assert "1/1" in written.getvalue()

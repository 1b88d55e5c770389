"""What a user sees while a run goes on: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from specs.result import UnitResult
from specs.unit import WorkUnit

LINE_EVERY_S = 10.0


class Counter:
    """Trials, flips and the time left, from the units done so far. Estimates are scaled by how they turned out."""

    def __init__(self, units: list[WorkUnit], workers: int) -> None:
        self.units, self.done, self.trials, self.flips = len(units), 0, 0, 0
        self._left_s = sum(unit.estimate_s for unit in units)
        self._guessed_s = self._took_s = 0.0
        self._workers = workers

    def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
        self.done += 1
        self.flips = flips
        self._left_s -= unit.estimate_s
        if result is not None:
            self.trials += unit.trials
            self._guessed_s += unit.estimate_s
            self._took_s += result.seconds

    @property
    def left_s(self) -> float:
        scale = self._took_s / self._guessed_s if self._guessed_s else 1.0
        return max(0.0, self._left_s * scale / self._workers)

    def __str__(self) -> str:
        return f"{self.trials} trials · {self.flips} flips · {_duration(self.left_s)} left"


class Bar:
    """On a terminal."""

    def __init__(self, bar: Progress, counter: Counter) -> None:
        self._bar, self._counter = bar, counter
        self._task: TaskID = bar.add_task("preparing workers", total=counter.units)

    def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
        self._counter.advance(unit, result, flips)
        self._bar.update(self._task, completed=self._counter.done, description=str(self._counter))

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False)


class Lines:
    """Where there is no terminal: at most a line every ten seconds, and the last one always."""

    def __init__(self, console: Console, counter: Counter) -> None:
        self._console, self._counter = console, counter
        self._last = time.monotonic()

    def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
        self._counter.advance(unit, result, flips)
        finished = self._counter.done == self._counter.units
        if finished or time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            self.note(f"{self._counter.done}/{self._counter.units} units · {self._counter}")

    def note(self, line: str) -> None:
        self._console.print(line, markup=False)


@contextmanager
def showing(console: Console, units: list[WorkUnit], workers: int) -> Iterator[Bar | Lines]:
    """Progress over ``units``, in the way that suits the console."""
    counter = Counter(units, workers)
    if not console.is_terminal:
        yield Lines(console, counter)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Bar(bar, counter)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

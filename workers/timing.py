"""How long a launch takes on a GPU, with weights that come from memory: CUDA graphs, operands in rotation, turns.

A server reads each layer's weights once a step, so that they are never in the L2 when their kernel starts. Here the
launches of a graph go round copies of the weights which together are more than twice the L2. Activations stay, as they
would behind the kernel that has just written them, and so does the block that the outputs are allocated in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workers.gemm.target import Call, GemmInputs
from workers.graphs import capture

SECONDS_A_TURN = 1e-3
"""Long enough for events, which resolve half a microsecond."""
MOST_LAUNCHES = 400
MOST_COPIES = 64
"""For weights of under two megabytes, which are read in less time than a launch takes."""


@dataclass(frozen=True)
class LaunchTimes:
    """``seconds`` of one launch, for each turn the mean over its ``launches``.

    ``captured``: launched by CUDA graphs. Otherwise the target can't be captured, and the host's time is in it.
    """

    seconds: tuple[float, ...]
    launches: int
    captured: bool

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        lower, upper = np.percentile(self.seconds, [25, 75])
        return float(lower), float(upper)


def rotated(inputs: GemmInputs) -> list[GemmInputs]:
    """The operands with their weights, and with copies of them elsewhere in memory."""
    cache = torch.cuda.get_device_properties(inputs.mat_b.device).L2_cache_size
    copies = [inputs.mat_b.t().clone().t() for _ in range(copies_for(inputs.mat_b.numel(), cache) - 1)]
    return [inputs] + [GemmInputs(inputs.mat_a, copy, inputs.scales_a, inputs.scales_b) for copy in copies]


def copies_for(weight_bytes: int, cache_bytes: int) -> int:
    """How many weights are more than twice the cache: two at least, ``MOST_COPIES`` at most."""
    return min(MOST_COPIES, max(2, 2 * cache_bytes // weight_bytes + 1))


def time_launches(rotations: Mapping[str, Sequence[Call]], *, turns: int) -> dict[str, LaunchTimes]:
    """Seconds of a launch of each target, given as its calls with each of the ``rotated`` operands.

    Targets take turns, one each a round, so that a change of the clocks does not look like a difference between them.
    Raises what a call raises when it is first launched, outside of any capture.
    """
    fastest = min(_seconds_once(calls) for calls in rotations.values())
    runs: dict[str, _Run] = {}
    for name, calls in rotations.items():
        runs[name] = _Run(calls, passes_for(fastest, len(calls)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            seconds[name].append(run.seconds())
    return {name: LaunchTimes(tuple(seconds[name]), run.launches, run.captured) for name, run in runs.items()}


def passes_for(seconds: float, copies: int) -> int:
    """How often a turn goes round all copies, a launch taking about ``seconds``.

    Always whole passes: where a turn ended in the middle, the next would find its first weights in the cache.
    """
    wanted = math.ceil(SECONDS_A_TURN / (seconds * copies))
    return max(1, min(wanted, MOST_LAUNCHES // copies))


def seconds_between(work: Callable[[], object]) -> float:
    """What the device takes for ``work``, between two events on torch's current stream."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def wall_seconds(work: Callable[[], object]) -> float:
    """What the host takes for ``work``."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _Run:
    """One target's turn, captured where that can be done."""

    def __init__(self, calls: Sequence[Call], passes: int) -> None:
        self.launches = len(calls) * passes
        graph = capture(lambda: _launch_all(calls, passes))
        self.captured = graph is not None
        self._again: Callable[[], object] = graph.replay if graph is not None else lambda: _launch_all(calls, passes)

    def seconds(self) -> float:
        # Not counted: it takes cache and clocks over from the target before, and while it runs the host gets ahead, so
        # that the device never waits for it between the events.
        self._again()
        return seconds_between(self._again) / self.launches


def _launch_all(calls: Sequence[Call], passes: int) -> None:
    for _ in range(passes):
        for call in calls:
            call()


def _seconds_once(calls: Sequence[Call]) -> float:
    """About how long a launch takes, host and all, after one of each that may compile and allocate."""
    _launch_all(calls, 1)
    return seconds_between(lambda: _launch_all(calls, 1)) / len(calls)

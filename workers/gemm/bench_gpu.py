"""Times the CUDA kernels beside their peers: CUDA graphs, weights that rotate through more than the L2 cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from specs.shapes import Shape, with_tokens
from workers.gemm.inputs import BLOCK, make_inputs
from workers.gemm.native import NativeGemm
from workers.gemm.peers import PEERS
from workers.gemm.target import Call, GemmInputs, GemmTarget

TOKENS = (1, 8, 64, 128, 512, 2048, 4096)
SMALL = 128  # up to this many tokens a kernel is bound by memory, and the goal is another one
OURS = "invariant"
OWN_OTHERS = ("streamk", "persistent")  # what determinism costs is told by these

BYTES_A_SECOND = 4.8e12  # the H200's datasheet: what no kernel can be faster than
FLOPS_A_SECOND = 1.979e15

_ROTATING_BYTES = 220e6  # several times the 50 MB of L2
_ROUNDS = 9
_ROUND_SECONDS = 0.004
_WARM_SECONDS = 0.02

Seconds = dict[str, list[float]]


def bench_gpu(shapes: Sequence[Shape] | None = None) -> dict[str, Any]:
    """Seconds a call of every kernel in every shape, and the summary that the goals are stated in.

    Targets take turns within a shape, so that a change of the clocks does not look like a difference between them.
    A target that can't take a shape is listed with its reason instead of a time. Raises BuildError, KernelError.
    """
    targets: list[GemmTarget] = [NativeGemm(name) for name in (OURS, *OWN_OTHERS)]
    targets += [peer() for peer in PEERS.values()]
    cells = [_cell(shape, *_measure(shape, targets)) for shape in shapes or with_tokens("h200-table", TOKENS)]
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cells": cells,
        "summary": summary(cells),
    }


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of (fastest peer's time / ours), the worst cell, and the share of the physical floor reached."""
    small = [cell["ratio"] for cell in cells if cell["m"] <= SMALL]
    large = [cell["ratio"] for cell in cells if cell["m"] > SMALL]
    worst = min(cells, key=lambda cell: cell["ratio"])
    return {
        "geomean_small_m": _geomean(small),
        "geomean_large_m": _geomean(large),
        "worst_cell": {key: worst[key] for key in ("ratio", "m", "n", "k", "fastest_peer")},
        "percent_of_floor": {f"{c['m']}x{c['k']}x{c['n']}": c["percent_of_floor"] for c in cells},
    }


def floor_seconds(shape: Shape) -> float:
    """The larger of the time to move each byte once and that to do the arithmetic at the datasheet's rates."""
    m, n, k = shape.m, shape.n, shape.k
    scales = 4 * (m * k // BLOCK + math.ceil(n / BLOCK) * (k // BLOCK))
    return max((m * k + n * k + 2 * m * n + scales) / BYTES_A_SECOND, 2 * m * n * k / FLOPS_A_SECOND)


def _cell(shape: Shape, seconds: Seconds, unsupported: dict[str, str]) -> dict[str, Any]:
    times = {}
    for name, runs in seconds.items():
        low, median, high = np.percentile(runs, [25, 50, 75]).tolist()
        times[name] = {"median_us": median * 1e6, "quartiles_us": [low * 1e6, high * 1e6]}
    peers = {name: times[name]["median_us"] for name in times if name in PEERS}
    fastest = min(peers, key=lambda name: peers[name])
    ours = times[OURS]["median_us"]
    return {
        "m": shape.m,
        "n": shape.n,
        "k": shape.k,
        "times": times,
        "unsupported": unsupported,
        "fastest_peer": fastest,
        "ratio": peers[fastest] / ours,
        "percent_of_floor": 100 * floor_seconds(shape) * 1e6 / ours,
    }


def _measure(shape: Shape, targets: Sequence[GemmTarget]) -> tuple[Seconds, dict[str, str]]:
    device, unsupported = torch.device("cuda"), {}
    replays: dict[str, tuple[Callable[[], None], int]] = {}
    rotating = list(_rotating(shape))
    for target in targets:
        reason = target.unsupported(shape.m, shape.n, shape.k, torch.bfloat16, device)
        if reason is None:
            calls = [target.call(inputs, torch.bfloat16) for inputs in rotating]
            replays[target.name] = (_graph(calls), len(calls))
        else:
            unsupported[target.name] = reason
    seconds: Seconds = {name: [] for name in replays}
    for _ in range(_ROUNDS):
        for name, (replay, calls_a_replay) in replays.items():
            _seconds(replay, _WARM_SECONDS / _ROUNDS)
            seconds[name].append(_seconds(replay, _ROUND_SECONDS) / calls_a_replay)
    return seconds, unsupported


def _rotating(shape: Shape) -> Iterator[GemmInputs]:
    first = make_inputs(shape.m, shape.n, shape.k, seed=1, device="cuda")
    copies = max(2, min(24, math.ceil(_ROTATING_BYTES / (shape.n * shape.k))))
    for index in range(copies):
        weights = first.mat_b if index == 0 else first.mat_b.t().clone().t()
        yield GemmInputs(first.mat_a, weights, first.scales_a, first.scales_b)


def _graph(calls: Sequence[Call]) -> Callable[[], None]:
    """All calls in one graph, captured after each was run once, so that nothing is compiled or allocated in it."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay


def _seconds(replay: Callable[[], None], at_least: float) -> float:
    """Seconds of one replay, the mean over as many as take about this long."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    count = 1
    while True:
        start.record()
        for _ in range(count):
            replay()
        end.record()
        end.synchronize()
        total = float(start.elapsed_time(end)) / 1e3
        if total >= at_least / 2:
            return total / count
        count = min(1000, 2 * count, math.ceil(count * at_least / total))


def _geomean(ratios: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None

"""CUDA graphs of work that may not be capturable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_failed: list[torch.cuda.CUDAGraph] = []
"""Kept for good: torch's allocator goes on asking a capture that broke off."""


def capture(work: Callable[[], object], pool: Any = None) -> torch.cuda.CUDAGraph | None:
    """A graph of what ``work`` enqueues; None where it can't be captured, as work that waits for the device can't.

    Graphs of one ``pool`` share memory, and must not be replayed at the same time.
    """
    graph = torch.cuda.CUDAGraph()
    # A capture that failed would leave its stream current.
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            with torch.cuda.graph(graph, pool):
                work()
        except RuntimeError:
            _failed.append(graph)
            torch.cuda.synchronize()
            return None
    return graph

"""CUDA graphs of work that may not be capturable, and branches in them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    with torch.cuda.stream(torch.cuda.current_stream()), _without_collection():
        try:
            with torch.cuda.graph(graph, pool):
                work()
        except RuntimeError:
            _failed.append(graph)
            torch.cuda.synchronize()
            return None
    return graph


@contextmanager
def _without_collection() -> Iterator[None]:
    """Garbage may hold a graph, and to destroy one breaks off a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Branch:
    """Work that runs beside what is enqueued after it, where a graph is captured; elsewhere it is enqueued like all."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._forked = False

    @contextmanager
    def fork(self, wanted: bool) -> Iterator[None]:
        """Enqueue the branch within it. What it makes may not be used before ``join``. ``wanted`` False: no branch."""
        self._forked = wanted and torch.cuda.is_current_stream_capturing()
        if not self._forked:
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is enqueued from now on comes after the branch."""
        if self._forked:
            assert self._stream is not None
            torch.cuda.current_stream().wait_stream(self._stream)

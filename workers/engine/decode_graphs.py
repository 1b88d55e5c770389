"""Decoding by CUDA graphs: the host launches a pass once, and replays it for every later step of the same sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from workers.engine.packing import Layout, PackedStep
from workers.engine.sampling import Asked
from workers.graphs import capture
from workers.model.recorder import GraphRecord, Recorder
from workers.model.step import Step, graph_length

MOST_GRAPHS = 128


@dataclass(frozen=True)
class _Sizes:
    sequences: int
    length: int
    """That no sequence exceeds: keys behind a sequence's end are masked."""
    drawn: int
    recorded: bool


@dataclass(frozen=True, eq=False)
class _Graph:
    graph: torch.cuda.CUDAGraph
    words: torch.Tensor
    """That the graph reads."""
    record: GraphRecord

    def replay(self, packed: PackedStep) -> None:
        self.words.copy_(packed.words, non_blocking=True)
        step, _ = packed.layout.cut(packed.words)
        self.record.replay(self.graph, step)


class DecodeGraphs:
    """Passes on a GPU, replayed where every sequence has one token, of which the logits are wanted.

    The second step of the same sizes is captured. Where that can't be done, as with operations that wait for the
    device, all steps run as they are.
    """

    def __init__(self, run: Callable[[Step, Asked], None], recorder: Recorder, sampled: torch.Tensor) -> None:
        """``run`` enqueues a pass with its sampling, which reads ``sampled`` (most rows, 2) of the one before it and
        then writes it."""
        self._run, self._recorder, self._sampled = run, recorder, sampled
        self._seen: set[_Sizes] = set()
        self._graphs: dict[_Sizes, _Graph] = {}
        """Oldest first."""
        self._pool = torch.cuda.graph_pool_handle()
        self._can_capture = True

    def replay(self, packed: PackedStep) -> bool:
        """Whether the step was replayed; otherwise it is to be run as it is."""
        layout = packed.layout
        count = len(layout.lengths)
        if not self._can_capture or not self._recorder.graphs or not layout.starts[-1] == layout.rows == count:
            return False
        sizes = _Sizes(count, graph_length(max(layout.lengths)), layout.drawn, self._recorder.active)
        graph = self._graphs.get(sizes)
        if graph is None and sizes in self._seen:
            graph = self._capture(packed, sizes)
        self._seen.add(sizes)
        if graph is None:
            return False
        graph.replay(packed)
        return True

    def _capture(self, packed: PackedStep, sizes: _Sizes) -> _Graph | None:
        words = packed.words.to(self._sampled.device)
        layout: Layout = replace(packed.layout, lengths=(sizes.length,) * sizes.sequences)
        step, asked = layout.cut(words)
        sampled = self._sampled.clone()
        with self._recorder.capturing() as record:
            self._run(step, asked)  # loads kernels that these lengths call for

            def work() -> None:
                self._run(step, asked)
                record.end()

            graph = capture(work, self._pool)
        self._sampled.copy_(sampled)
        if graph is None:
            self._can_capture = False
            return None
        if len(self._graphs) == MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[sizes] = _Graph(graph, words, record)
        return self._graphs[sizes]

"""Decoding by CUDA graphs: the host launches a pass once, and replays it for every later step of the same sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from workers.graphs import capture
from workers.model.recorder import GraphRecord, Recorder
from workers.model.step import Step, graph_length

MOST_GRAPHS = 128

Forward = Callable[[Step], torch.Tensor]


@dataclass(frozen=True)
class _Sizes:
    sequences: int
    length: int
    """That no sequence exceeds: keys behind a sequence's end are masked."""
    recorded: bool


@dataclass(frozen=True, eq=False)
class _Graph:
    graph: torch.cuda.CUDAGraph
    step: Step
    """Whose tensors the graph reads."""
    logits: torch.Tensor
    """To which it writes."""
    record: GraphRecord

    def replay(self, step: Step) -> torch.Tensor:
        own = self.step
        own.tokens.copy_(step.tokens)
        own.positions.copy_(step.positions)
        own.slots.copy_(step.slots)
        own.page_tables.fill_(-1)[:, : step.page_tables.shape[1]].copy_(step.page_tables)
        self.record.replay(self.graph, step)
        return self.logits


class DecodeGraphs:
    """A model's forward pass on a GPU, replayed where every sequence has one token, of which the logits are wanted.

    The second step of the same sizes is captured. Where that can't be done, as with operations that wait for the
    device, all steps run as they are. The logits that come back are written over by later steps.
    """

    def __init__(self, forward: Forward, recorder: Recorder, page_size: int) -> None:
        self._forward, self._recorder, self._page_size = forward, recorder, page_size
        self._seen: set[_Sizes] = set()
        self._graphs: dict[_Sizes, _Graph] = {}
        """Oldest first."""
        self._pool = torch.cuda.graph_pool_handle()
        self._can_capture = True

    def __call__(self, step: Step) -> torch.Tensor:
        """(R, vocabulary) float32 logits."""
        count = len(step.lengths)
        if not self._can_capture or not self._recorder.graphs or not len(step.tokens) == len(step.logit_rows) == count:
            return self._forward(step)
        sizes = _Sizes(count, graph_length(max(step.lengths)), self._recorder.active)
        graph = self._graphs.get(sizes)
        if graph is None and sizes in self._seen:
            graph = self._capture(step, sizes)
        self._seen.add(sizes)
        return self._forward(step) if graph is None else graph.replay(step)

    def _capture(self, step: Step, sizes: _Sizes) -> _Graph | None:
        own = replace(
            step,
            tokens=step.tokens.clone(),
            positions=step.positions.clone(),
            slots=step.slots.clone(),
            lengths=(sizes.length,) * sizes.sequences,
            page_tables=_widened(step.page_tables, -(-sizes.length // self._page_size)),
        )
        found: list[torch.Tensor] = []
        with self._recorder.capturing() as record:
            self._forward(own)  # loads kernels that these lengths call for

            def work() -> None:
                found.append(self._forward(own))
                record.end()

            graph = capture(work, self._pool)
        if graph is None:
            self._can_capture = False
            return None
        if len(self._graphs) == MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[sizes] = _Graph(graph, own, found[0], record)
        return self._graphs[sizes]


def _widened(tables: torch.Tensor, width: int) -> torch.Tensor:
    wide = tables.new_full((tables.shape[0], width), -1)
    wide[:, : tables.shape[1]] = tables
    return wide

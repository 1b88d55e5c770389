"""A recorder that digests what every operation reads and writes, or keeps the tensors of a single one.

It is idle until told, and then costs a branch an operation. Nothing waits for the device before ``finish``.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from workers.model.recorder import NO_NUMBERS, GraphRecord, Tensors
from workers.model.step import Step
from workers.trace.digests import Digester, Found, contiguous, flat_rows, rows_of, weight_digest
from workers.trace.trace import COLLECTIVES, Digests, Trace, TracedOp, TracedStep


@dataclass(frozen=True, eq=False)
class Captured:
    """The tensors of one operation, copied to the host but for the weights."""

    inputs: Tensors
    output: torch.Tensor
    weights: Tensors
    """As the model has them: those of many experts are more than is kept in the end."""
    tokens: torch.Tensor | None
    step_tokens: int
    """T of the step."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What ``attention`` reads besides: the step's ``starts``, ``lengths``, ``positions`` and ``page_tables``, and
    ``latents`` (pages, page size, latent) of the pages that these have, numbered anew."""


@dataclass(frozen=True)
class Wish:
    """Which operation's tensors to keep: of this step since ``capture``, counted from 0."""

    step: int
    name: str


@dataclass(eq=False, slots=True)
class _Op:
    """A ``TracedOp`` whose digests are still on the device."""

    name: str
    kind: str
    implementation: str
    tokens: torch.Tensor | None
    inputs: tuple[int, ...]
    output: int
    weights: tuple[bytes, ...]
    shapes: tuple[torch.Size, ...]


@dataclass(eq=False)
class _Step:
    call: int
    step: Step
    replayed: Sequence[_Op] = ()
    """Operations that a graph's replay did first, with digests of their own."""
    found: Found | None = None
    """Those digests."""
    ops: list[_Op] = field(default_factory=list)


class TraceRecorder:
    """``workers.model.recorder.Recorder`` of one rank."""

    def __init__(self, device: torch.device, page_size: int) -> None:
        self.active = False
        self.captured: Captured | None = None
        self._device, self._page_size = device, page_size
        self._digester = Digester(device)
        self._weights: dict[str, tuple[bytes, ...]] = {}
        self._seen: dict[Hashable, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
        self._capturing = False
        self._step: Step
        """The one that has begun."""
        self._begin_again(None)

    def trace(self) -> None:
        """Digest from now on."""
        self._begin_again(None)
        self.active = True

    def capture(self, wish: Wish) -> None:
        """From now on wait for one operation, and keep its tensors in ``captured``."""
        self._begin_again(wish)
        self.active = True

    def begin_call(self) -> None:
        """The engine is about to be called."""
        self._call += 1

    def finish(self) -> Trace:
        """Stop, and give what was digested. Waits for the device."""
        self.active = False
        digests = self._digester.finish()
        steps = tuple(_step(step, digests) for step in self._steps)
        self._begin_again(None)
        return Trace(steps, self._page_size)

    @property
    def graphs(self) -> bool:
        """Not while tensors are to be kept."""
        return self._wish is None

    @contextmanager
    def capturing(self) -> Iterator[GraphRecord]:
        self._digester.launch()
        usual, self._capturing = self._digester, True
        try:
            yield _PassInGraph(self)
        finally:
            self._digester, self._capturing = usual, False

    def begin(self, step: Step) -> None:
        if not self.active:
            return
        self._seen.clear()
        if self._capturing:
            # Nothing that waits from another pass may be captured.
            self._digester, self._ops = Digester(self._device), list[_Op]()
            return
        self._digester.launch()
        self._passes += 1
        self._step = step
        if self._wish is None:
            self._begin_step(_Step(self._call, step))

    def captured_pass(self) -> tuple[Sequence[_Op], Found]:
        """What was told since ``begin``, with digests that are made again by each replay of the graph."""
        return self._ops, self._digester.found()

    def replay(self, graph: torch.cuda.CUDAGraph, step: Step, ops: Sequence[_Op], found: Found) -> None:
        """Replay the graph of a ``captured_pass``, and take it for a step that was told."""
        self._digester.launch()  # what waits may lie where the graph writes
        self._seen.clear()
        graph.replay()
        self._begin_step(_Step(self._call, step, ops, found.copy()))

    def op(
        self,
        name: str,
        kind: str,
        implementation: str,
        inputs: Tensors,
        output: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        weights: Tensors = (),
        numbers: Mapping[str, float] = NO_NUMBERS,
        cache: torch.Tensor | None = None,
    ) -> None:
        if not self.active:
            return
        if self._wish is not None:
            if self._wish == Wish(self._passes, name):
                rows = None if tokens is None else tokens.cpu()
                kept = _copies(inputs), _copy(output), weights, rows, len(self._step.tokens), dict(numbers)
                self.captured = Captured(*kept, {} if cache is None else self._beside(cache))
            return
        if name not in self._weights:
            self._weights[name] = tuple(weight_digest(weight) for weight in weights)
        given = tuple([self._handle(tensor, output=False) for tensor in inputs])
        found = self._handle(output, output=True)
        shapes = tuple([tensor.shape for tensor in (*inputs, output)])
        self._ops.append(_Op(name, kind, implementation, tokens, given, found, self._weights[name], shapes))
        if kind in COLLECTIVES:
            self._digester.launch()

    def _begin_step(self, step: _Step) -> None:
        self._steps.append(step)
        self._ops = step.ops

    def _beside(self, cache: torch.Tensor) -> dict[str, torch.Tensor]:
        step, tables = self._step, self._step.page_tables.cpu()
        pages, numbered = tables.unique(return_inverse=True)
        first = int(pages[0] < 0)  # -1, for none, comes first
        latents = cache.unflatten(0, (-1, self._page_size))[pages[first:].to(cache.device).long()]
        return {
            "starts": torch.tensor(step.starts),
            "lengths": torch.tensor(step.lengths),
            "positions": _copy(step.positions),
            "page_tables": (numbered - first).int(),
            "latents": _copy(latents),
        }

    def _handle(self, tensor: torch.Tensor, *, output: bool) -> int:
        """Of a tensor's digests. An input is most often an earlier output, whose memory holds it as long as that lives.

        What writes over an output must therefore be told as an output of the same place.
        """
        rows = rows_of(tensor)
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if rows is None else rows
        if not output and (before := self._seen.get(place)) is not None and before[0]() is not None:
            return before[1]
        if rows is not None:
            handle = self._digester.rows(tensor, rows)
        else:
            copy = contiguous(tensor)
            handle = self._digester.rows(copy, flat_rows(copy))
        if output:
            self._seen[place] = weakref.ref(tensor.untyped_storage()), handle
        return handle

    def _begin_again(self, wish: Wish | None) -> None:
        self._wish, self._steps, self._call, self._passes = wish, list[_Step](), -1, -1
        if wish is not None:
            self.captured = None
        self._seen.clear()


class _PassInGraph:
    """``workers.model.recorder.GraphRecord`` of a ``TraceRecorder``."""

    def __init__(self, recorder: TraceRecorder) -> None:
        self._recorder = recorder
        self._told: tuple[Sequence[_Op], Found] | None = None

    def end(self) -> None:
        if self._recorder.active:
            self._told = self._recorder.captured_pass()

    def replay(self, graph: torch.cuda.CUDAGraph, step: Step) -> None:
        if self._told is None:
            graph.replay()
        else:
            self._recorder.replay(graph, step, *self._told)


def _copies(tensors: Tensors) -> Tensors:
    return tuple(map(_copy, tensors))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """On the host, strides as they are where there are no gaps."""
    return tensor.detach().cpu().clone()


def _step(given: _Step, digests: list[Digests]) -> TracedStep:
    step = given.step
    ops = _ops(given.ops, digests)
    if given.found is not None:
        ops = _ops(given.replayed, given.found.fetch()) + ops
    return TracedStep(
        call=given.call,
        labels=step.labels,
        starts=step.starts,
        lengths=step.lengths,
        positions=step.positions.cpu().numpy(),
        slots=step.slots.cpu().numpy(),
        page_tables=step.page_tables.cpu().numpy(),
        ops=ops,
    )


def _ops(given: Sequence[_Op], digests: list[Digests]) -> tuple[TracedOp, ...]:
    # One list of rows serves many operations: it is fetched once.
    rows = {id(op.tokens): op.tokens.cpu().numpy() for op in given if op.tokens is not None}
    return tuple(
        TracedOp(
            name=op.name,
            kind=op.kind,
            implementation=op.implementation,
            tokens=None if op.tokens is None else rows[id(op.tokens)],
            inputs=tuple([digests[handle] for handle in op.inputs]),
            output=digests[op.output],
            weights=op.weights,
            shapes=op.shapes,
        )
        for op in given
    )

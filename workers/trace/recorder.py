"""A recorder that digests what every operation reads and writes, or keeps the tensors of a single one.

It is idle until told, and then costs a branch an operation. Nothing waits for the device before ``finish``.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from workers.model.recorder import Tensors
from workers.model.step import Step
from workers.trace.digests import Digester, contiguous, flat_rows, rows_of, weight_digest
from workers.trace.trace import COLLECTIVES, Digests, Trace, TracedOp, TracedStep


@dataclass(frozen=True, eq=False)
class Captured:
    """The tensors of one operation, copied to the host."""

    inputs: Tensors
    output: torch.Tensor
    weights: Tensors
    tokens: torch.Tensor | None
    step_tokens: int
    """T of the step."""


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
    ops: list[_Op] = field(default_factory=list)


class TraceRecorder:
    """``workers.model.recorder.Recorder`` of one rank."""

    def __init__(self, device: torch.device, page_size: int) -> None:
        self.active = False
        self.captured: Captured | None = None
        self._page_size = page_size
        self._digester = Digester(device)
        self._weights: dict[str, tuple[bytes, ...]] = {}
        self._seen: dict[Hashable, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
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

    def begin(self, step: Step) -> None:
        if self.active:
            self._digester.launch()
            self._seen.clear()
            self._passes += 1
            self._count = step.tokens.shape[0]
            if self._wish is None:
                self._steps.append(_Step(self._call, step))
                self._ops = self._steps[-1].ops

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
    ) -> None:
        if not self.active:
            return
        if self._wish is not None:
            if self._wish == Wish(self._passes, name):
                self._capture(inputs, output, weights, tokens)
            return
        if name not in self._weights:
            self._weights[name] = tuple(weight_digest(weight) for weight in weights)
        given = tuple([self._handle(tensor, output=False) for tensor in inputs])
        found = self._handle(output, output=True)
        shapes = tuple([tensor.shape for tensor in (*inputs, output)])
        self._ops.append(_Op(name, kind, implementation, tokens, given, found, self._weights[name], shapes))
        if kind in COLLECTIVES:
            self._digester.launch()

    def _capture(self, inputs: Tensors, output: torch.Tensor, weights: Tensors, tokens: torch.Tensor | None) -> None:
        rows = None if tokens is None else tokens.cpu()
        self.captured = Captured(_copies(inputs), _copy(output), _copies(weights), rows, self._count)

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
        self._wish, self._steps, self._call, self._passes, self._count = wish, list[_Step](), -1, -1, 0
        if wish is not None:
            self.captured = None
        self._seen.clear()


def _copies(tensors: Tensors) -> Tensors:
    return tuple(map(_copy, tensors))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """On the host, strides as they are where there are no gaps."""
    return tensor.detach().cpu().clone()


def _step(given: _Step, digests: list[Digests]) -> TracedStep:
    step = given.step
    # One list of rows serves many operations: it is fetched once.
    rows = {id(op.tokens): op.tokens.cpu().numpy() for op in given.ops if op.tokens is not None}
    ops = tuple(
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
        for op in given.ops
    )
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

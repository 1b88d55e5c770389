"""What one rank did, operation by operation, as digests of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
"""(rows, 2): 128 bits of each row's memory."""
COLLECTIVES = ("all_reduce", "all_gather")
"""Kinds of operations whose inputs are those of all ranks."""


@dataclass(frozen=True, eq=False)
class TracedOp:
    """See ``workers.model.recorder.Recorder.op`` for names and rows."""

    name: str
    kind: str
    implementation: str
    tokens: NDArray[np.int64] | None
    inputs: tuple[Digests, ...]
    output: Digests
    weights: tuple[bytes, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Of the inputs, then of the output."""

    def places(self, count: int) -> NDArray[np.int64]:
        """Of each of the step's ``count`` tokens, its row in ``rows``; -1 for those that the operation did not see."""
        if self.tokens is None:
            return np.arange(count)
        found = np.full(count, -1, dtype=np.int64)
        found[self.tokens] = np.arange(len(self.tokens))
        return found

    def rows(self, digests: Digests, count: int) -> Digests:
        """One row for each token that the operation saw, of all its digests side by side."""
        rows = count if self.tokens is None else len(self.tokens)
        return digests.reshape(rows, -1) if rows else digests

    @property
    def gemm_shape(self) -> tuple[int, int, int] | None:
        """(m, n, k) of a product."""
        if self.kind not in ("fp8_gemm", "matmul"):
            return None
        (m, k), n = self.shapes[0][:2], self.shapes[len(self.inputs)][-1]
        return m, n, k


@dataclass(frozen=True, eq=False)
class TracedStep:
    """One forward pass of T tokens; see ``workers.model.step.Step``."""

    call: int
    """Of the engine's ``generate``, since the trace began."""
    labels: tuple[str, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    page_tables: NDArray[np.int32]
    ops: tuple[TracedOp, ...]

    @property
    def count(self) -> int:
        """T"""
        return len(self.positions)

    @cached_property
    def by_name(self) -> dict[str, TracedOp]:
        return {op.name: op for op in self.ops}

    def sequence_of(self, row: int) -> int:
        """Which of the step's sequences a row is of."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1


@dataclass(frozen=True, eq=False)
class Trace:
    """Of one rank, from an empty cache on."""

    steps: tuple[TracedStep, ...]
    page_size: int


@dataclass(frozen=True)
class Instance:
    """One answer in a trace of all ranks: the request ``label`` in call ``call``."""

    ranks: Sequence[Trace]
    call: int
    label: str

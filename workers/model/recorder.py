"""The one place through which every operation of a forward pass can be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Protocol

import torch

from workers.model.step import Step

Tensors = tuple[torch.Tensor, ...]
NO_NUMBERS: Mapping[str, float] = MappingProxyType({})


class GraphRecord(Protocol):
    """Of a pass that a CUDA graph holds."""

    def end(self) -> None:
        """The pass has ended; what is enqueued now is still captured."""

    def replay(self, graph: torch.cuda.CUDAGraph, step: Step) -> None:
        """Replay it for ``step``: all that the pass was told to have done is done again."""


class Recorder(Protocol):
    """Is told of every operation, in execution order, on its rank.

    Tensors stay as they are until the next ``all_reduce`` or ``all_gather`` has been told, or the next pass begins.
    Then they may be written over: keep digests or copies. An active recorder may write into an output, as tests put
    faults there: what is computed from it afterwards takes it as it is then. (The codes of a norm's output are not:
    both are made at once, and told one after the other.)
    """

    @property
    def active(self) -> bool:
        """False: nothing is kept, and callers need not keep for it what an operation writes over."""

    @property
    def graphs(self) -> bool:
        """Whether passes may be replayed from graphs now."""

    def capturing(self) -> AbstractContextManager[GraphRecord]:
        """Passes within it are of no step. The last one goes into a graph."""

    def begin(self, step: Step) -> None:
        """A forward pass begins."""

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
        """An operation ran.

        ``name`` says where, as ``layers.0.self_attn.o_proj.1`` for piece 1 of a linear that is computed in pieces;
        ``kind`` is one of KINDS; ``implementation`` is what really ran, as ``farm:invariant`` or ``torch.matmul``.
        ``tokens`` (R,) int64: row i of ``output`` and of all inputs is of token tokens[i] of the step. None: of T
        tokens each tensor has k * T rows, k of each token, token by token.
        ``weights`` are the same in every step, and so are ``numbers``: what else it takes to run it by itself.
        ``cache`` (slots, latent) are the latents that ``attention`` reads, an input too.
        """


KINDS = (
    "embedding",
    "rms_norm",
    "quantise",
    "fp8_gemm",
    "matmul",
    "head_matmul",
    "rope",
    "attention",
    "router",
    "silu_multiply",
    "weighted_sum",
    "residual",
    "all_reduce",
    "all_gather",
    "split",
    "concatenate",
    "sampling",
)
"""``split`` and ``concatenate`` only move data: with them a trace has where each operation's inputs come from."""


class NullRecorder:
    """Keeps nothing."""

    active = False
    graphs = True

    @contextmanager
    def capturing(self) -> Iterator[GraphRecord]:
        yield self

    def end(self) -> None:
        pass

    def replay(self, graph: torch.cuda.CUDAGraph, step: Step) -> None:
        graph.replay()

    def begin(self, step: Step) -> None:
        pass

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
        pass

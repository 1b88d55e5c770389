"""The one place through which every operation of a forward pass can be seen."""

from __future__ import annotations

from typing import Protocol

import torch

from workers.model.step import Step


class Recorder(Protocol):
    """Is told of every operation, in execution order, on its rank.

    Tensors may be written over after the call: keep a digest or a copy, not the tensor.
    """

    def begin(self, step: Step) -> None:
        """A forward pass begins."""

    def op(
        self,
        name: str,
        kind: str,
        implementation: str,
        inputs: tuple[torch.Tensor, ...],
        output: torch.Tensor,
        *,
        by_row: bool,
    ) -> None:
        """An operation ran.

        ``name`` says where, as ``layers.0.self_attn.o_proj.1`` for piece 1 of a linear that is computed in pieces;
        ``kind`` is one of KINDS; ``implementation`` is what really ran, as ``farm:invariant`` or ``torch.matmul``.
        ``by_row``: row i of ``output``, and of those inputs that have as many rows, is of token i of the step. Rows of
        other operations have no fixed token (those of one expert), or one for each logit.
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
)


class NullRecorder:
    """Keeps nothing."""

    def begin(self, step: Step) -> None:
        pass

    def op(
        self,
        name: str,
        kind: str,
        implementation: str,
        inputs: tuple[torch.Tensor, ...],
        output: torch.Tensor,
        *,
        by_row: bool,
    ) -> None:
        pass

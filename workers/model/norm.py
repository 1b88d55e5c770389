"""RMS norms before linears, with the residual that is added before and the quantisation that follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.model.context import Context
from workers.model.linear import Rows, quantised_rows, read_plain


@dataclass(frozen=True)
class Normed:
    total: torch.Tensor
    """(T, n), what was normalised: x and what was added to it."""
    values: torch.Tensor | None
    """(T, n), None where nobody asked for it."""
    rows: Rows
    """The values as linears take them."""


class Norm:
    """The norm ``name`` before ``linear``, which may first add to its input: that is told as ``residual``.

    ``plain``: its values are wanted beside the rows of the linear.
    """

    def __init__(self, context: Context, name: str, linear: str, *, residual: str = "", plain: bool = False) -> None:
        self._context, self._name, self._linear, self._residual = context, name, linear, residual
        self._weight, self._plain = read_plain(context, f"model.{name}.weight"), plain

    def __call__(self, x: torch.Tensor, added: torch.Tensor | None = None) -> Normed:
        """(T, n), and as many to add or None."""
        context, weight, eps = self._context, self._weight, self._context.config.rms_norm_eps
        if context.numerics.gemm is None:
            total = x if added is None else context.add(self._residual, x, added)
            values: torch.Tensor | None = context.ops.rms_norm(total, weight, eps)
            quantised: list[torch.Tensor] = []
        else:
            plain = self._plain or context.recorder.active
            total, values, *quantised = context.ops.rms_norm_quantise(x, weight, eps, added=added, plain=plain)
            if added is not None:
                context.ran(self._residual, "residual", (x, added), total)
        if values is None:  # told as one operation: what lies between the two is nowhere
            codes, scales = quantised
            context.ran(self._name, "rms_norm", (total,), codes, weights=(weight,), numbers={"eps": eps})
            return Normed(total, None, Rows(codes, scales))
        context.ran(self._name, "rms_norm", (total,), values, weights=(weight,), numbers={"eps": eps})
        rows = quantised_rows(context, self._linear, values, quantised) if quantised else Rows(values)
        return Normed(total, values, rows)

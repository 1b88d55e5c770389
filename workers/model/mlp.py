"""The gated MLP of dense layers and of shared experts."""

from __future__ import annotations

import torch

from workers.model.context import Context
from workers.model.linear import ColumnParallel, RowParallel, Rows, activate, read_weight


class MLP:
    """down(silu(gate x) * up x), cut over ``width``."""

    def __init__(self, context: Context, name: str, width: int) -> None:
        self._context, self._name = context, name
        source, pieces = f"model.{name}", context.pieces
        both = [f"{source}.gate_proj", f"{source}.up_proj"]
        gate_up = [read_weight(context, both, pieces.part(width, piece)) for piece in pieces]
        self._gate_up_proj = ColumnParallel(context, f"{name}.gate_up_proj", gate_up)
        down = [read_weight(context, [f"{source}.down_proj"], columns=pieces.part(width, piece)) for piece in pieces]
        self._down_proj = RowParallel(context, f"{name}.down_proj", down)

    def __call__(self, rows: Rows) -> torch.Tensor:
        """(T, hidden) to this rank's partial sums (P, T, hidden)."""
        gate_up = self._gate_up_proj(rows)
        names = f"{self._name}.activation", f"{self._name}.down_proj"
        return self._down_proj(activate(self._context, *names, gate_up, pieces=self._context.pieces.count))

"""This rank's routed experts, each whole."""

from __future__ import annotations

from typing import Protocol

import torch

from workers.model.context import Context
from workers.model.linear import Linear, Rows, activate, read_weight


class Experts(Protocol):
    def __call__(self, rows: Rows, experts: torch.Tensor) -> torch.Tensor:
        """Tokens (T, hidden) and their experts (T, k) to outputs (T, k, hidden), zero where another rank's."""


def make_experts(context: Context, name: str) -> Experts:
    """On a GPU one kernel for all experts, so that the host need not know which are wanted; else one by one."""
    if context.ranks.device.type == "cuda" and context.numerics.gemm is not None:
        from workers.model.grouped_experts import GroupedExperts

        return GroupedExperts(context, name)
    return SeparateExperts(context, name)


class SeparateExperts:
    """A product for each expert that has tokens, through the GEMM under test."""

    def __init__(self, context: Context, name: str) -> None:
        self._context = context
        own = context.pieces.own(context.config.n_routed_experts)
        self._experts = {expert: Expert(context, f"{name}.experts.{expert}") for expert in range(own.start, own.stop)}

    def __call__(self, rows: Rows, experts: torch.Tensor) -> torch.Tensor:
        count, chosen = experts.shape
        out = torch.zeros(
            count * chosen, self._context.config.hidden_size, dtype=self._context.numerics.dtype, device=experts.device
        )
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        sizes = torch.bincount(flat, minlength=self._context.config.n_routed_experts).tolist()
        for expert, places in enumerate(order.split(sizes)):
            if sizes[expert] and expert in self._experts:
                tokens = places // chosen
                out[places] = self._experts[expert](rows.take(tokens), tokens)
        return out.view(count, chosen, -1)


class Expert:
    def __init__(self, context: Context, name: str) -> None:
        self._context, self._name = context, name
        source = f"model.{name}"
        gate_up = read_weight(context, [f"{source}.gate_proj", f"{source}.up_proj"])
        self._gate_up_proj = Linear(context, f"{name}.gate_up_proj", gate_up)
        self._down_proj = Linear(context, f"{name}.down_proj", read_weight(context, [f"{source}.down_proj"]))

    def __call__(self, rows: Rows, tokens: torch.Tensor) -> torch.Tensor:
        """(R, hidden), rows of the step's ``tokens`` (R,), to the same."""
        gate_up = self._gate_up_proj(rows, tokens)
        names = f"{self._name}.activation", f"{self._name}.down_proj"
        return self._down_proj(activate(self._context, *names, gate_up, tokens=tokens), tokens)

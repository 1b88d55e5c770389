"""The mixture of experts: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2.

Every rank routes all tokens, computes its own experts whole, and its part of the shared expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.model.config import ModelConfig
from workers.model.context import Context
from workers.model.experts import make_experts
from workers.model.linear import Rows, read_plain, stacked
from workers.model.mlp import MLP
from workers.model.tensors import ROUTER_BIAS


@dataclass(frozen=True)
class Routing:
    """Each token's experts, in ascending order, and what their outputs are multiplied by."""

    experts: torch.Tensor
    """(T, k) int64"""
    weights: torch.Tensor
    """(T, k) float32"""


class MixtureOfExperts:
    def __init__(self, context: Context, layer: int) -> None:
        self._context, self._name = context, f"layers.{layer}.mlp"
        self._gate = context.ops.weight(read_plain(context, f"model.{self._name}.gate.weight"))
        self._bias = context.source.read(f"model.layers.{layer}.{ROUTER_BIAS}").float()
        self._experts = make_experts(context, self._name)
        width = context.config.shared_intermediate_size
        self._shared = MLP(context, f"{self._name}.shared_experts", width)

    def __call__(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """(T, hidden), normalised, and as linears take it, to the sum over all experts and ranks (T, hidden)."""
        context, name = self._context, self._name
        logits = context.ops.matmul(x, self._gate, torch.float32)
        context.ran(f"{name}.gate", "matmul", (x,), logits, weights=(self._gate,))
        routing = route(logits, self._bias, context.config)
        for part, tensor in (("experts", routing.experts), ("weights", routing.weights)):
            told = f"{name}.router.{part}", "router", "torch.sort", (logits,), tensor
            context.recorder.op(*told, weights=(self._bias,))
        outputs = self._experts(rows, routing.experts)
        context.moved(f"{name}.experts", "concatenate", (outputs.flatten(0, 1),), outputs)
        partials = [
            context.add(f"{name}.shared_add.{piece}", shared, self._summed(outputs, routing, piece))
            for piece, shared in zip(context.pieces, self._shared(rows), strict=True)
        ]
        return context.all_reduce(f"{name}.all_reduce", stacked(partials))

    def _summed(self, outputs: torch.Tensor, routing: Routing, piece: int) -> torch.Tensor:
        """(T, k, hidden) times weights, added in float32 in order of experts, of those that belong to ``piece``."""
        own = self._context.pieces.part(self._context.config.n_routed_experts, piece)
        belongs = (routing.experts >= own.start) & (routing.experts < own.stop)
        weights = routing.weights.masked_fill(~belongs, 0.0)
        given = (routing.weights, routing.experts)
        self._context.recorder.op(f"{self._name}.expert_weights.{piece}", "router", "torch.masked_fill", given, weights)
        total = self._context.ops.weighted_sum(outputs, weights)
        return self._context.ran(f"{self._name}.expert_sum.{piece}", "weighted_sum", (outputs, weights), total)


def route(logits: torch.Tensor, bias: torch.Tensor, config: ModelConfig) -> Routing:
    """Sigmoid scores; the best experts, by score and bias, of the best groups; weights are scores without bias.

    A group is as good as the sum of its two best experts. Stable sorts leave no choice between equals: the lower
    expert wins, on every device.
    """
    scores = 1 / (1 + torch.exp(-logits))
    grouped = (scores + bias).unflatten(1, (config.n_group, -1))
    best_two = grouped.sort(dim=2, descending=True, stable=True).values[..., :2]
    group_scores = best_two[..., 0] + best_two[..., 1]
    groups = group_scores.argsort(dim=1, descending=True, stable=True)[:, config.topk_group :]
    masked = grouped.scatter(1, groups[..., None].expand(-1, -1, grouped.shape[2]), -torch.inf).flatten(1)
    chosen = masked.argsort(dim=1, descending=True, stable=True)[:, : config.num_experts_per_tok]
    experts = chosen.sort(dim=1).values
    weights = scores.gather(1, experts)
    if config.norm_topk_prob:
        total = weights[:, :1]
        for i in range(1, weights.shape[1]):
            total = total + weights[:, i : i + 1]
        weights = weights / (total + 1e-20)
    return Routing(experts, weights * config.routed_scaling_factor)

"""Which experts a token goes to: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.model.config import ModelConfig
from workers.model.sharding import Pieces


@dataclass(frozen=True)
class Routing:
    """Each token's experts, in ascending order, and what their outputs are multiplied by."""

    experts: torch.Tensor
    """(T, k) int64"""
    weights: tuple[torch.Tensor, ...]
    """Of each of a rank's pieces (T, k) float32: 0 where an expert belongs to another piece"""


def route(logits: torch.Tensor, bias: torch.Tensor, config: ModelConfig, pieces: Pieces) -> Routing:
    """Sigmoid scores; the best experts, by score and bias, of the best groups; weights are scores without bias.

    ``logits`` (T, experts) and ``bias`` (experts,) are float32. A group is as good as the sum of its two best experts.
    Stable sorts leave no choice between equals: the lower expert wins, on every device.
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
    weights = weights * config.routed_scaling_factor
    owns = (pieces.part(config.n_routed_experts, piece) for piece in pieces)
    return Routing(
        experts, tuple(weights.masked_fill((experts < own.start) | (experts >= own.stop), 0.0) for own in owns)
    )

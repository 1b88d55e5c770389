"""The mixture of experts: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2.

Every rank routes all tokens, computes its own experts whole, and its part of the shared expert.
"""

from __future__ import annotations

import torch

from workers.graphs import Branch
from workers.model.context import Context
from workers.model.experts import make_experts
from workers.model.linear import Rows, read_plain, stacked
from workers.model.mlp import MLP
from workers.model.tensors import ROUTER_BIAS


class MixtureOfExperts:
    def __init__(self, context: Context, layer: int) -> None:
        self._context, self._name = context, f"layers.{layer}.mlp"
        self._gate = context.ops.weight(read_plain(context, f"model.{self._name}.gate.weight"))
        self._bias = context.source.read(f"model.layers.{layer}.{ROUTER_BIAS}").float()
        self._weights = [f"weights.{piece}" for piece in context.pieces]
        self._experts = make_experts(context, self._name)
        width = context.config.shared_intermediate_size
        self._shared = MLP(context, f"{self._name}.shared_experts", width)
        self._beside = Branch()

    def __call__(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """(T, hidden), normalised, and as linears take it, to the sum over all experts and ranks (T, hidden)."""
        context, name = self._context, self._name
        # Routing leaves the memory idle that the shared expert's weights come from.
        with self._beside.fork(x.is_cuda and not context.recorder.active):
            shared_parts = self._shared(rows)
        logits = context.ops.matmul(x, self._gate, torch.float32)
        context.ran(f"{name}.gate", "matmul", (x,), logits, weights=(self._gate,))
        routing = context.ops.route(logits, self._bias, context.config, context.pieces)
        for part, tensor in (("experts", routing.experts), *zip(self._weights, routing.weights, strict=True)):
            context.ran(f"{name}.router.{part}", "router", (logits,), tensor, weights=(self._bias,))
        outputs = self._experts(rows, routing.experts)
        context.moved(f"{name}.experts", "concatenate", (outputs.flatten(0, 1),), outputs)
        self._beside.join()
        partials = []
        for piece, weights, shared in zip(context.pieces, routing.weights, shared_parts, strict=True):
            total = context.ops.weighted_sum(outputs, weights, shared)
            given = outputs, weights, shared
            partials.append(context.ran(f"{name}.expert_sum.{piece}", "weighted_sum", given, total))
        return context.all_reduce(f"{name}.all_reduce", stacked(partials))

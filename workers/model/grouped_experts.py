"""This rank's routed experts on a GPU, all in one product, as servers run them beside the GEMM under test."""

from __future__ import annotations

import torch

from workers.gemm.inputs import FP8
from workers.model.context import Context
from workers.model.linear import Rows, Weight, prepare, read_weight
from workers.model.triton_experts import assign, grouped_product


class GroupedExperts:
    """``workers.model.experts.Experts`` with FP8 weights stacked, (experts, n, k)."""

    def __init__(self, context: Context, name: str) -> None:
        self._context, self._name = context, name
        own = context.pieces.own(context.config.n_routed_experts)
        self._first, self._count = own.start, own.stop - own.start
        sources = [f"model.{name}.experts.{expert}" for expert in range(own.start, own.stop)]
        self._gate_up = _stacked(context, [[f"{source}.gate_proj", f"{source}.up_proj"] for source in sources])
        self._down = _stacked(context, [[f"{source}.down_proj"] for source in sources])

    def __call__(self, rows: Rows, experts: torch.Tensor) -> torch.Tensor:
        count, chosen = experts.shape
        assignments = assign(experts.flatten() - self._first, self._count)

        def product(part: str, given: Rows, weight: Weight, per_token: int) -> torch.Tensor:
            assert given.scales is not None and weight.scales is not None
            # Zeros where an expert is another rank's: these rows are multiplied by zero later on.
            shape = (count * chosen, weight.values.shape[1])
            out = torch.zeros(shape, dtype=self._context.numerics.dtype, device=experts.device)
            operands = (given.values, given.scales, weight.values, weight.scales)
            grouped_product(*operands, assignments, out, rows_per_token=per_token)
            inputs = (given.values, given.scales, experts)
            name = f"{self._name}.experts.{part}"
            told = name, "fp8_gemm", "triton:grouped_product", inputs, out
            self._context.recorder.op(*told, weights=(weight.values, weight.scales))
            return out

        gate_up = product("gate_up_proj", rows, self._gate_up, chosen)
        activated = self._context.ops.silu_multiply(gate_up)
        self._context.ran(f"{self._name}.experts.activation", "silu_multiply", (gate_up,), activated)
        given = prepare(self._context, f"{self._name}.experts.down_proj", activated)
        return product("down_proj", given, self._down, 1).view(count, chosen, -1)


def _stacked(context: Context, names: list[list[str]]) -> Weight:
    """One expert at a time, into memory for all."""
    values, scales = torch.empty(0), torch.empty(0)
    for i, each in enumerate(names):
        weight = read_weight(context, each)
        assert weight.scales is not None
        if i == 0:
            values = torch.empty(len(names), *weight.values.shape, dtype=torch.uint8, device=weight.values.device)
            scales = torch.empty(len(names), *weight.scales.shape, device=weight.values.device)
        values[i], scales[i] = weight.values.view(torch.uint8), weight.scales
    return Weight(values.view(FP8), scales)

"""This rank's routed experts on a GPU, all in one product: each gets the bits that ``invariant`` gives it alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from workers.gemm.grouped import IMPLEMENTATION, TILE_ROWS
from workers.gemm.inputs import FP8
from workers.model.context import Context
from workers.model.linear import Rows, Weight, read_weight
from workers.model.triton_experts import Assignments, assign, gathered, silu_multiply_quantise

_LARGEST_MEANS = {8: 3, 16: 6, 64: 48}
"""Rows of a tile, and how many rows experts have on average, at most, where they are used."""


class GroupedExperts:
    """``workers.model.experts.Experts`` with FP8 weights stacked, (experts, n, k).

    Products take rows sorted by expert, and give them back in order of choices: k of each token, token by token. For
    choices of other ranks' experts nothing is written, and a recorder is told zeros.
    """

    def __init__(self, context: Context, name: str) -> None:
        self._context, self._name = context, f"{name}.experts"
        self._own = context.pieces.own(context.config.n_routed_experts)
        sources = [f"model.{name}.experts.{expert}" for expert in range(self._own.start, self._own.stop)]
        self._gate_up = _stacked(context, [[f"{source}.gate_proj", f"{source}.up_proj"] for source in sources])
        self._down = _stacked(context, [[f"{source}.down_proj"] for source in sources])

    def __call__(self, rows: Rows, experts: torch.Tensor) -> torch.Tensor:
        assert rows.scales is not None
        context, (count, chosen) = self._context, experts.shape
        to = assign(experts, self._own, _tile_rows(experts.numel(), context.config.n_routed_experts))
        make = torch.zeros if context.recorder.active else torch.empty
        multiply = partial(_multiply, to=to, make=make, dtype=context.numerics.dtype)
        gate_up = multiply(*gathered(rows.values, rows.scales, to.order, chosen), self._gate_up)
        self._tell("gate_up_proj", (rows.values, rows.scales, experts), gate_up, self._gate_up)

        n = gate_up.shape[1] // 2
        activated = gate_up.new_zeros(len(gate_up), n) if context.recorder.active else None
        codes, scales = silu_multiply_quantise(gate_up, to.order, activated)
        told = self._tell_activation(gate_up, activated, codes, scales, to)
        outputs = multiply(codes, scales, self._down)
        self._tell("down_proj", (*told, experts), outputs, self._down)
        return outputs.view(count, chosen, -1)

    def _tell(self, part: str, inputs: tuple[torch.Tensor, ...], out: torch.Tensor, weight: Weight) -> None:
        assert weight.scales is not None
        told = f"{self._name}.{part}", "fp8_gemm", IMPLEMENTATION, inputs, out
        weights, numbers = (weight.values, weight.scales), {"first_expert": self._own.start}
        self._context.recorder.op(*told, weights=weights, numbers=numbers)

    def _tell_activation(
        self,
        gate_up: torch.Tensor,
        activated: torch.Tensor | None,
        codes: torch.Tensor,
        scales: torch.Tensor,
        to: Assignments,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scales as told: in order of choices where a recorder looks, else as they are, of ``gate_up``."""
        tell, source = self._context.recorder.op, gate_up
        if activated is not None:
            codes, scales = _by_choice(codes.view(torch.uint8), to).view(FP8), _by_choice(scales, to)
            name, kind = f"{self._name}.activation", "silu_multiply"
            tell(name, kind, f"triton:{kind}", (gate_up,), activated, numbers={"pieces": 1})
            source = activated
        for part, tensor in (("quantise", codes), ("quantise.scales", scales)):
            tell(f"{self._name}.down_proj.{part}", "quantise", "triton:quantise", (source,), tensor)
        return codes, scales


def multiply_choices(
    codes: torch.Tensor, scales: torch.Tensor, experts: torch.Tensor, weight: Weight, dtype: torch.dtype
) -> torch.Tensor:
    """Experts (T, k) int64, -1 for none, of as many weights; codes of tokens (T, ..) or of choices (T * k, ..).

    To choices (T * k, n), zeros where there is no expert. As the model does it, with sorting.
    """
    own = slice(0, weight.values.shape[0])
    to = assign(experts, own, _tile_rows(experts.numel(), own.stop))
    scales = scales.t().contiguous().t()
    sorted_rows = gathered(codes, scales, to.order, experts.numel() // len(codes))
    return _multiply(*sorted_rows, weight, to=to, make=torch.zeros, dtype=dtype)


def _multiply(
    codes: torch.Tensor,
    scales: torch.Tensor,
    weight: Weight,
    *,
    to: Assignments,
    make: Callable[..., torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Sorted rows (N, k) times their experts' weights, to choices (N, n), of which ``make`` makes the memory."""
    assert weight.scales is not None
    out = make((len(to.order), weight.values.shape[1]), dtype=dtype, device=to.order.device)
    operands = codes, weight.values, scales, weight.scales
    torch.ops.farm.fp8_grouped_scaled_mm(*operands, to.tiles, to.order, out, to.tile_rows)
    return out


def _tile_rows(choices: int, experts: int) -> int:
    """What took least time on an H200, with R1's sizes: 32 nowhere did."""
    return next((rows for rows, mean in _LARGEST_MEANS.items() if choices <= mean * experts), TILE_ROWS[-1])


def _by_choice(rows: torch.Tensor, to: Assignments) -> torch.Tensor:
    """Sorted rows in order of choices, zeros where another rank's."""
    out = rows.new_zeros(len(rows) + 1, rows.shape[1])
    out[to.order.long()] = rows  # -1 is the row too many
    return out[:-1]


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

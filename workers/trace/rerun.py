"""One operation by itself, with operands that ``farm repro`` kept, through what the model calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from workers.gemm.grouped import IMPLEMENTATION as GROUPED
from workers.gemm.inputs import FP8
from workers.gemm.target import GemmInputs
from workers.gemm.targets import find_target
from workers.model.linear import Weight
from workers.model.numerics import Numerics
from workers.model.ops import AttentionShape, Ops, make_ops
from workers.model.recorder import Tensors
from workers.model.step import Step

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs."""

    inputs: Tensors
    output: torch.Tensor
    rows: slice
    """Of the output: those that parted."""
    beside: dict[str, torch.Tensor]
    """See ``workers.trace.recorder.Captured``."""


@dataclass(frozen=True, eq=False)
class Operation:
    """What a file of ``workers.trace.capture.pack`` holds."""

    about: dict[str, Any]
    first: Side
    second: Side
    weights: Tensors

    def call(self, side: Side, device: torch.device) -> Call | None:
        """The operation on one run's inputs; None where it can't be run by itself on ``device``.

        It can't where it needs all ranks, or numbers of the model's that it was not told with.
        """
        kind, implementation = self.about["kind"], self.about["implementation"]
        inputs = tuple(_on(tensor, device) for tensor in side.inputs)
        weights = tuple(_on(tensor, device) for tensor in self.weights)
        dtype = side.output.dtype
        if implementation == GROUPED:
            return _grouped(inputs, weights, dtype) if device.type == "cuda" else None
        if kind == "fp8_gemm":
            operands = GemmInputs(inputs[0], weights[0], inputs[1], weights[1])
            return find_target(implementation.removeprefix("farm:")).call(operands, dtype)
        ops = make_ops(Numerics(None, torch.float32, not implementation.startswith("torch")), device)
        if kind == "attention":
            beside = {name: tensor.to(device) for name, tensor in side.beside.items()}
            return _attention(ops, inputs[0], beside, self.about["numbers"])
        return _plain(ops, kind, (*inputs, *weights), dtype, self.about["numbers"])


def load(path: Path) -> Operation:
    """Raises OSError for a file that is not there."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["farm"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    for name in about["turned"]:
        tensors[name] = tensors[name].t()
    first, second = (
        Side(
            _numbered(tensors, f"{name}.inputs"),
            tensors[f"{name}.output"],
            slice(*rows),
            _named(tensors, f"{name}.beside."),
        )
        for name, rows in zip(("first", "second"), about["rows"], strict=True)
    )
    return Operation(about, first, second, _numbered(tensors, "weights"))


def _plain(ops: Ops, kind: str, operands: Tensors, dtype: torch.dtype, numbers: dict[str, float]) -> Call | None:
    x, *rest = operands
    if kind == "matmul":
        return lambda: torch.cat([ops.matmul(x, weight, dtype) for weight in rest], dim=1)
    if kind == "silu_multiply":
        pieces = x.view(len(x) * int(numbers["pieces"]), -1)
        return lambda: ops.silu_multiply(pieces).view(len(x), -1)
    if kind == "rms_norm" and "rope" in numbers:
        return _latent_norm(ops, x, rest[0], numbers)
    if kind == "rms_norm" and dtype == x.dtype:
        return lambda: ops.rms_norm(x, rest[0], numbers["eps"])
    if kind == "quantise":
        part = 0 if dtype == FP8 else 1
        return lambda: ops.quantise(x)[part]
    if kind == "residual":
        return lambda: x + rest[0]
    if kind not in ("head_matmul", "weighted_sum"):
        return None
    run = getattr(ops, kind)
    return lambda: run(*operands)


def _latent_norm(ops: Ops, x: torch.Tensor, weight: torch.Tensor, numbers: dict[str, float]) -> Call:
    """The norm of what the cache keeps, as it is made: beside a key, here zeros, and its rotation."""
    tokens, rope = len(x), int(numbers["rope"])
    key, latents = x.new_zeros(tokens, rope), x.new_zeros(tokens, x.shape[1] + rope)
    angles = torch.zeros(tokens, 1, rope // 2, device=x.device)
    slots = torch.arange(tokens, device=x.device)
    return lambda: ops.latent(x, key, weight, numbers["eps"], (angles, angles), latents, slots)[0]


def _grouped(inputs: Tensors, weights: Tensors, dtype: torch.dtype) -> Call:
    from workers.model.grouped_experts import multiply_choices

    codes, scales, experts = inputs
    return lambda: multiply_choices(codes, scales, experts, Weight(*weights), dtype)


def _attention(ops: Ops, q: torch.Tensor, beside: dict[str, torch.Tensor], numbers: dict[str, float]) -> Call:
    starts, lengths = beside["starts"].tolist(), beside["lengths"].tolist()
    unused = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    step = Step(
        tokens=unused,
        positions=beside["positions"],
        slots=unused,
        starts=tuple(starts),
        lengths=tuple(lengths),
        page_tables=beside["page_tables"],
        logit_rows=unused[:0],
        labels=tuple(map(str, range(len(lengths)))),
    )
    shape = AttentionShape(numbers["scale"], int(numbers["value_size"]), int(numbers["pieces"]))
    latents = beside["latents"]
    plan = ops.plan_attention(step, latents.shape[1])
    return lambda: ops.attention(q, latents.flatten(0, 1), plan, shape)


def _numbered(tensors: dict[str, torch.Tensor], name: str) -> Tensors:
    found = _named(tensors, f"{name}.")
    return tuple(found[str(i)] for i in range(len(found)))


def _named(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """With its strides: a GEMM takes operands that are transposed."""
    if tensor.is_contiguous() or tensor.dim() != 2:
        return tensor.to(device)
    return tensor.t().to(device).t()

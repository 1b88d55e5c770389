"""One operation by itself, with operands that ``farm repro`` kept, through what the model calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from workers.gemm.target import GemmInputs
from workers.gemm.targets import find_target
from workers.model.numerics import Numerics
from workers.model.ops import Ops, make_ops
from workers.model.recorder import Tensors

Call = Callable[[], torch.Tensor]
RUNNABLE = ("fp8_gemm", "matmul", "head_matmul", "silu_multiply", "weighted_sum")
"""Kinds that need no more than their operands. Others need all ranks, the cache, or numbers of the model's."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs."""

    inputs: Tensors
    output: torch.Tensor
    rows: slice
    """Of the output: those that parted."""


@dataclass(frozen=True, eq=False)
class Operation:
    """What a file of ``workers.trace.capture.pack`` holds."""

    about: dict[str, Any]
    first: Side
    second: Side
    weights: Tensors

    def call(self, side: Side, device: torch.device) -> Call | None:
        """The operation on one run's inputs; None where it can't be run by itself."""
        kind, implementation = self.about["kind"], self.about["implementation"]
        if kind not in RUNNABLE or implementation == "farm:grouped-invariant":
            return None
        inputs = tuple(_on(tensor, device) for tensor in side.inputs)
        weights = tuple(_on(tensor, device) for tensor in self.weights)
        if kind == "fp8_gemm":
            operands = GemmInputs(inputs[0], weights[0], inputs[1], weights[1])
            return find_target(implementation.removeprefix("farm:")).call(operands, side.output.dtype)
        ops = make_ops(Numerics(None, torch.float32, not implementation.startswith("torch:")), device)
        return _plain(ops, kind, (*inputs, *weights), side.output.dtype)


def load(path: Path) -> Operation:
    """Raises OSError for a file that is not there."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["farm"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    for name in about["turned"]:
        tensors[name] = tensors[name].t()
    first, second = (
        Side(_numbered(tensors, f"{name}.inputs"), tensors[f"{name}.output"], slice(*rows))
        for name, rows in zip(("first", "second"), about["rows"], strict=True)
    )
    return Operation(about, first, second, _numbered(tensors, "weights"))


def _plain(ops: Ops, kind: str, operands: Tensors, dtype: torch.dtype) -> Call:
    if kind == "matmul":
        x, *weights = operands
        return lambda: torch.cat([ops.matmul(x, weight, dtype) for weight in weights], dim=1)
    run = getattr(ops, kind)
    return lambda: run(*operands)


def _numbered(tensors: dict[str, torch.Tensor], name: str) -> Tensors:
    count = sum(key.startswith(f"{name}.") for key in tensors)
    return tuple(tensors[f"{name}.{i}"] for i in range(count))


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """With its strides: a GEMM takes operands that are transposed."""
    if tensor.is_contiguous() or tensor.dim() != 2:
        return tensor.to(device)
    return tensor.t().to(device).t()

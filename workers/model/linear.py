"""Linear layers: e4m3 weights scaled by 128x128 blocks through the GEMM under test, or plain ones.

``Rows`` are activations as a linear takes them, quantised once where several take the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

import workers.gemm.op  # noqa: F401  (registers the operator)
from specs.errors import UsageError
from specs.job import OWN_VARIANTS
from workers.gemm.inputs import BLOCK, FP8
from workers.gemm.target import GemmInputs, GemmTarget
from workers.gemm.targets import find_target
from workers.model.context import Context
from workers.model.tensors import SCALES
from workers.model.weights import WHOLE

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """(T, k) activations: plain ``values``, or e4m3 codes with their float32 ``scales`` (T, k/128)."""

    values: torch.Tensor
    scales: torch.Tensor | None = None

    def take(self, index: torch.Tensor) -> Rows:
        """Rows ``index`` alone."""
        if self.scales is None:
            return Rows(self.values[index])
        # Codes are gathered as bytes: indexing is not implemented for e4m3 on every device.
        codes = self.values.view(torch.uint8)[index].view(FP8)
        return Rows(codes, self.scales.t()[:, index].t())

    def columns(self, part: slice) -> Rows:
        """Columns ``part`` alone, whole blocks of 128 where they are quantised."""
        if part == slice(0, self.values.shape[1]):
            return self
        values = self.values[:, part].contiguous()
        if self.scales is None:
            return Rows(values)
        return Rows(values, self.scales[:, part.start // BLOCK : part.stop // BLOCK])


@dataclass(frozen=True)
class Weight:
    """(n, k): plain ``values``, or e4m3 codes with float32 ``scales`` (ceil(n/128), k/128)."""

    values: torch.Tensor
    scales: torch.Tensor | None = None


def prepare(context: Context, name: str, x: torch.Tensor) -> Rows:
    """``x`` (T, k) as the model's linears take it."""
    if context.numerics.gemm is None:
        return Rows(x)
    return quantised_rows(context, name, x, context.ops.quantise(x))


def activate(
    context: Context,
    name: str,
    linear: str,
    gate_up: torch.Tensor,
    *,
    pieces: int = 1,
    tokens: torch.Tensor | None = None,
) -> Rows:
    """The gated activation of ``pieces`` side by side (T, 2 n), told as ``name``, as ``linear`` takes it.

    ``tokens`` as a recorder takes them.
    """
    ops, active, numbers = context.ops, context.recorder.active, {"pieces": pieces}
    if context.numerics.gemm is None:
        plain = ops.silu_multiply(gate_up.view(gate_up.shape[0] * pieces, -1)).view(gate_up.shape[0], -1)
        return Rows(context.ran(name, "silu_multiply", (gate_up,), plain, tokens=tokens, numbers=numbers))
    activated, *quantised = ops.silu_multiply_quantise(gate_up, pieces=pieces, plain=active)
    if activated is None:  # told as one operation: what lies between the two is nowhere
        codes, scales = quantised
        context.ran(name, "silu_multiply", (gate_up,), codes, tokens=tokens, numbers=numbers)
        return Rows(codes, scales)
    context.ran(name, "silu_multiply", (gate_up,), activated, tokens=tokens, numbers=numbers)
    return quantised_rows(context, linear, activated, quantised, tokens)


def quantised_rows(
    context: Context,
    name: str,
    x: torch.Tensor,
    quantised: Sequence[torch.Tensor],
    tokens: torch.Tensor | None = None,
) -> Rows:
    """Codes and scales of ``x`` as the linear ``name`` takes them: tells the recorder of the quantisation."""
    codes, scales = quantised
    for part, tensor in (("quantise", codes), ("quantise.scales", scales)):
        context.ran(f"{name}.{part}", "quantise", (x,), tensor, tokens=tokens)
    return Rows(codes, scales)


class Linear:
    """x W^T with one weight (n, k) that is wholly on this rank."""

    def __init__(self, context: Context, name: str, weight: Weight) -> None:
        self.name = name
        self._context, self._dtype = context, context.numerics.dtype
        self._columns = weight.values.shape[0]
        if weight.scales is None:
            self._kind, self._implementation = "matmul", f"{context.ops.source}:matmul"
            self._weight = context.ops.weight(weight.values)
            self._operands: tuple[torch.Tensor, ...] = (self._weight,)
            return
        gemm = context.numerics.gemm
        assert gemm is not None
        self._kind = "fp8_gemm"
        self._implementation = f"farm:{gemm}" if gemm in OWN_VARIANTS else gemm
        self._product, self._operands = _fp8_product(gemm, weight, self._dtype)

    def __call__(self, rows: Rows, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """(T, k) to (T, n); ``tokens`` as a recorder takes them."""
        if rows.scales is None:
            inputs: tuple[torch.Tensor, ...] = (rows.values,)
            out = self._context.ops.matmul(rows.values, self._weight, self._dtype)
        else:
            inputs = (rows.values, rows.scales)
            out = self._product(rows.values, rows.scales)
        told = self.name, self._kind, self._implementation, inputs, out
        self._context.recorder.op(*told, tokens=tokens, weights=self._operands)
        return out


class ColumnParallel:
    """Rows of the weight, columns of the result, are cut into pieces; this rank's come out side by side."""

    def __init__(self, context: Context, name: str, pieces: list[Weight]) -> None:
        self._context, self._name = context, name
        self._linears = _numbered(context, name, pieces)

    def __call__(self, rows: Rows) -> torch.Tensor:
        """(T, k) to (T, this rank's part of n)."""
        outs = [linear(rows) for linear in self._linears]
        if len(outs) == 1:
            return outs[0]
        return self._context.moved(self._name, "concatenate", tuple(outs), torch.cat(outs, dim=1))


class RowParallel:
    """Columns of the weight, and of x, are cut into pieces: each gives a partial sum."""

    def __init__(self, context: Context, name: str, pieces: list[Weight]) -> None:
        self._context, self._name = context, name
        self._linears = _numbered(context, name, pieces)

    def __call__(self, rows: Rows) -> torch.Tensor:
        """(T, this rank's part of k) to partial sums (P, T, n)."""
        width = rows.values.shape[1] // len(self._linears)
        parts = [rows.columns(slice(i * width, (i + 1) * width)) for i in range(len(self._linears))]
        if len(parts) > 1:
            self._split(rows, parts)
        return stacked([linear(part) for linear, part in zip(self._linears, parts, strict=True)])

    def _split(self, rows: Rows, parts: list[Rows]) -> None:
        for linear, part in zip(self._linears, parts, strict=True):
            self._context.moved(f"{linear.name}.part", "split", (rows.values,), part.values)
            if rows.scales is not None and part.scales is not None:
                self._context.moved(f"{linear.name}.part.scales", "split", (rows.scales,), part.scales)


def read_weight(context: Context, names: list[str], rows: slice = WHOLE, columns: slice = WHOLE) -> Weight:
    """The same slice of the weights of several linears, one below the other, as this model computes with them.

    Slices of FP8 weights, and all but the last of several, must be whole blocks of 128.
    """
    parts = [_read_one(context, name, rows, columns) for name in names]
    if len(parts) == 1:
        return parts[0]
    scales = [part.scales for part in parts if part.scales is not None]
    values = torch.cat([part.values for part in parts])
    return Weight(values, torch.cat(scales) if scales else None)


def dequantised(weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """(n, k) in ``dtype``: codes times the scale of their block, in float32."""
    if weight.scales is None:
        return weight.values.to(dtype)
    n, k = weight.values.shape
    scales = weight.scales.repeat_interleave(BLOCK, dim=0)[:n].repeat_interleave(BLOCK, dim=1)[:, :k]
    return (weight.values.float() * scales).to(dtype)


def read_plain(context: Context, name: str, rows: slice = WHOLE) -> torch.Tensor:
    """A tensor that is not a linear's, in the model's dtype."""
    return context.source.read(name, rows).to(context.numerics.dtype)


def stacked(partials: list[torch.Tensor]) -> torch.Tensor:
    """P of (T, n) to (P, T, n), without a copy where there is one."""
    return partials[0][None] if len(partials) == 1 else torch.stack(partials)


def _numbered(context: Context, name: str, pieces: list[Weight]) -> list[Linear]:
    if context.pieces.count == 1:
        return [Linear(context, name, pieces[0])]
    numbered = zip(context.pieces, pieces, strict=True)
    return [Linear(context, f"{name}.{piece}", weight) for piece, weight in numbered]


def _read_one(context: Context, name: str, rows: slice, columns: slice) -> Weight:
    values = context.source.read(f"{name}.weight", rows, columns)
    if values.dtype != FP8:
        return Weight(values.to(context.numerics.dtype))
    blocks = (_in_blocks(rows), _in_blocks(columns))
    weight = Weight(values, context.source.read(f"{name}.weight{SCALES}", *blocks).float())
    if context.numerics.gemm is None:
        return Weight(dequantised(weight, context.numerics.dtype))
    return weight


def _in_blocks(part: slice) -> slice:
    if part == WHOLE:
        return part
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def _fp8_product(gemm: str, weight: Weight, dtype: torch.dtype) -> tuple[Product, tuple[torch.Tensor, torch.Tensor]]:
    """codes (T, k), scales (T, k/128) -> (T, n), by the variant called ``gemm``, and the operands that it keeps."""
    assert weight.scales is not None
    n = weight.values.shape[0]
    if gemm in OWN_VARIANTS:
        operator = torch.ops.farm.fp8_blockwise_scaled_mm.default
        mat_b, scales_b = weight.values.t(), weight.scales.t()
        return lambda codes, scales: operator(codes, mat_b, scales, scales_b, dtype, gemm), (mat_b, scales_b)
    target = find_target(gemm)
    weight = _fitting(target, weight, dtype)
    assert weight.scales is not None
    mat_b, scales_b = weight.values.t(), weight.scales.t()

    def product(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        out = target.call(GemmInputs(codes, mat_b, scales, scales_b), dtype)()
        return out if out.shape[1] == n else out[:, :n].contiguous()

    return product, (mat_b, scales_b)


def _fitting(target: GemmTarget, weight: Weight, dtype: torch.dtype) -> Weight:
    """The weight as the target takes it: with rows of zeros up to a multiple of 128 where it refuses others.

    Raises UsageError where it refuses that too.
    """
    (n, k), device = weight.values.shape, weight.values.device
    if target.unsupported(1, n, k, dtype, device) is None:
        return weight
    whole = n + -n % BLOCK
    refusal = target.unsupported(1, whole, k, dtype, device)
    if refusal is not None:
        raise UsageError(f"gemm {target.name!r} can't run a linear of (n, k) = ({n}, {k}): {refusal}")
    padded = torch.zeros(whole, k, dtype=torch.uint8, device=device)
    padded[:n] = weight.values.view(torch.uint8)
    return replace(weight, values=padded.view(FP8))

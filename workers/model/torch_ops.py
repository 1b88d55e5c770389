"""Ordinary PyTorch operations: what they add up in which order is PyTorch's choice, by shape, threads and device."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from workers.gemm.inputs import quantise_rows
from workers.model.ops import AttentionShape, Ops
from workers.model.paging import slots_of
from workers.model.step import Step, graph_length


@dataclass(frozen=True)
class _Group:
    """Sequences whose queries are computed at once: ``rows`` of the step, each with the same number of tokens."""

    rows: slice | torch.Tensor
    sequences: int
    slots: torch.Tensor
    """(sequences, L)"""
    hidden: torch.Tensor
    """(sequences, tokens, 1, L) bool: keys that a query must not see"""


class TorchOps(Ops):
    source = "torch"

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)

    def quantise(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return quantise_rows(x)

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def matmul(self, x: torch.Tensor, weight: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        if out_dtype == x.dtype:
            return torch.nn.functional.linear(x, weight)
        if x.is_cuda:
            return torch.mm(x, weight.t(), out_dtype=out_dtype)
        return torch.nn.functional.linear(x.to(out_dtype), weight.to(out_dtype))

    def head_matmul(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        product = torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)
        return product if out is None else out.copy_(product)

    def silu_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)

    def weighted_sum(self, outputs: torch.Tensor, weights: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        wanted = outputs.masked_fill((weights == 0)[:, :, None], 0)
        return onto + (wanted * weights[:, :, None]).sum(dim=1).to(onto.dtype)

    def plan_attention(self, step: Step, page_size: int) -> list[_Group]:
        """All sequences with one new token make one group, each of the others one of its own."""
        counts = [stop - start for start, stop in pairwise(step.starts)]
        if max(counts) == 1:  # nothing comes from the host, so that a graph can be captured
            longest = graph_length(max(step.lengths)) if step.tokens.is_cuda else max(step.lengths)
            return [_group(step, page_size, slice(0, len(counts)), slice(0, len(counts)), longest)]
        groups = [
            _group(step, page_size, slice(i, i + 1), slice(step.starts[i], step.starts[i + 1]), step.lengths[i])
            for i, count in enumerate(counts)
            if count > 1
        ]
        single = [i for i, count in enumerate(counts) if count == 1]
        if not single:
            return groups
        rows = torch.tensor([step.starts[i] for i in single], device=step.tokens.device)
        return [*groups, _group(step, page_size, single, rows, max(step.lengths[i] for i in single))]

    def attention(
        self, q: torch.Tensor, latents: torch.Tensor, plan: list[_Group], shape: AttentionShape
    ) -> torch.Tensor:
        out = q.new_empty(*q.shape[:2], shape.value_size)
        for group in plan:
            keys = latents[group.slots]
            queries = q[group.rows].unflatten(0, (group.sequences, -1))
            scores = torch.einsum("sthd,sld->sthl", queries, keys).float() * shape.scale
            weights = scores.masked_fill_(group.hidden, -torch.inf).softmax(dim=-1).to(q.dtype)
            values = torch.einsum("sthl,sld->sthd", weights, keys[..., : shape.value_size])
            out[group.rows] = values.flatten(0, 1)
        return out


def _group(
    step: Step, page_size: int, sequences: slice | list[int], rows: slice | torch.Tensor, longest: int
) -> _Group:
    tables = step.page_tables[sequences]
    positions = step.positions[rows].view(len(tables), -1, 1, 1)
    hidden = torch.arange(longest, device=positions.device) > positions
    return _Group(rows, len(tables), slots_of(tables, page_size, 0, longest), hidden)

"""Operations on the CPU whose rows don't depend on each other, made of PyTorch's by never changing a shape.

A matrix product may add in another order for another number of rows, so rows go through in tiles of ``TILE``, the last
one filled up; a row's place in its tile does not matter, which tests hold. Keys go through in blocks of ``SPLIT``, and
each query token is a product of its own. Products are short in K, for which the number of threads does not matter
either. Sums along a row are halvings, which are element by element. All is in float32 whatever the type, and rounded to
it afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from workers.gemm.inputs import quantise_rows
from workers.model.ops import AttentionShape, Ops
from workers.model.paging import slots_of
from workers.model.step import Step

TILE = 16
SPLIT = 256
SEGMENT = 256
# A product with a vector is split over threads in ways of its own, with a matrix of two rows it is not.
_LEAST_HEADS = 2


def fixed_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum over the last dimension, kept with size 1: halves are added, an odd element at last."""
    odd: list[torch.Tensor] = []
    while (size := x.shape[-1]) > 1:
        if size % 2:
            odd.append(x[..., -1:])
        x = x[..., : size // 2] + x[..., size // 2 : size // 2 * 2]
    for element in odd:
        x = x + element
    return x


@dataclass(frozen=True)
class _Block:
    """Queries that see keys of one split: ``rows`` of the step."""

    rows: slice | torch.Tensor
    slots: torch.Tensor
    """(SPLIT,) where all rows are of one sequence, else (rows, SPLIT)"""
    hidden: torch.Tensor
    """(rows, 1, SPLIT) bool: keys that a query must not see"""


class FixedOps(Ops):
    source = "fixed"

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        mean = fixed_sum(wide * wide) / x.shape[-1]
        return (wide * torch.rsqrt(mean + eps) * weight).to(x.dtype)

    def quantise(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return quantise_rows(x)

    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.float()

    def matmul(self, x: torch.Tensor, weight: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        """In segments of K, since a long K is split over threads, and their sums by halving."""
        segment = math.gcd(x.shape[1], SEGMENT)
        weights = weight.unflatten(1, (-1, segment)).permute(1, 2, 0)
        tiles = [
            fixed_sum(torch.bmm(tile.unflatten(1, (-1, segment)).transpose(0, 1), weights).movedim(0, -1))[..., 0]
            for tile in _tiles(x.float())
        ]
        return _joined(tiles, x.shape[0]).to(out_dtype)

    def head_matmul(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        tiles = [torch.bmm(tile.transpose(0, 1), weight).transpose(0, 1) for tile in _tiles(x.float())]
        product = _joined(tiles, x.shape[0]).to(x.dtype)
        return product if out is None else out.copy_(product)

    def silu_multiply(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        return (gate / (1 + torch.exp(-gate)) * up).to(gate_up.dtype)

    def weighted_sum(self, outputs: torch.Tensor, weights: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        outputs = outputs.masked_fill((weights == 0)[:, :, None], 0)
        total = outputs[:, 0] * weights[:, :1]
        for i in range(1, weights.shape[1]):
            total = total + outputs[:, i] * weights[:, i : i + 1]
        return onto + total.to(onto.dtype)

    def plan_attention(self, step: Step, page_size: int) -> list[_Block]:
        """In order of splits, since each adds to what those before it left."""
        counts = [stop - start for start, stop in pairwise(step.starts)]
        blocks = []
        for start in range(0, max(step.lengths), SPLIT):
            seeing = [i for i, length in enumerate(step.lengths) if length > start]
            slots = slots_of(step.page_tables[seeing], page_size, start, start + SPLIT)
            keys = torch.arange(start, start + SPLIT)
            single = [n for n, i in enumerate(seeing) if counts[i] == 1]
            if single:
                rows = torch.tensor([step.starts[seeing[n]] for n in single])
                blocks.append(_Block(rows, slots[single], keys > step.positions[rows, None, None]))
            for n, i in enumerate(seeing):
                if counts[i] > 1:
                    blind = max(start - (step.lengths[i] - counts[i]), 0)
                    several = slice(step.starts[i] + blind, step.starts[i + 1])
                    blocks.append(_Block(several, slots[n], keys > step.positions[several, None, None]))
        return blocks

    def attention(
        self, q: torch.Tensor, latents: torch.Tensor, plan: list[_Block], shape: AttentionShape
    ) -> torch.Tensor:
        pieces = q.float().tensor_split(shape.pieces, dim=1)
        return torch.cat([self._heads(piece, latents, plan, shape) for piece in pieces], dim=1).to(q.dtype)

    def _heads(self, q: torch.Tensor, latents: torch.Tensor, plan: list[_Block], shape: AttentionShape) -> torch.Tensor:
        """Online softmax (Milakov and Gimelshein, 2018) over splits in order."""
        heads = q.shape[1]
        if heads < _LEAST_HEADS:
            q = q.expand(-1, _LEAST_HEADS, -1)
        q = q * shape.scale
        greatest = q.new_full((*q.shape[:2], 1), -torch.inf)
        total = torch.zeros_like(greatest)
        out = q.new_zeros(*q.shape[:2], shape.value_size)
        for block in plan:
            rows, queries = block.rows, q[block.rows]
            keys = latents[block.slots].float().expand(queries.shape[0], -1, -1)
            scores = torch.bmm(queries, keys.transpose(1, 2)).masked_fill_(block.hidden, -torch.inf)
            before = greatest[rows]
            now = torch.maximum(before, scores.amax(dim=-1, keepdim=True))
            kept = torch.exp(before - now)
            weights = torch.exp(scores - now)
            values = torch.bmm(weights, keys[..., : shape.value_size])
            greatest[rows] = now
            total[rows] = total[rows] * kept + fixed_sum(weights)
            out[rows] = out[rows] * kept + values
        return (out / total)[:, :heads]


def _tiles(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    missing = -x.shape[0] % TILE
    if missing:
        x = torch.cat((x, x.new_zeros(missing, *x.shape[1:])))
    tiles: tuple[torch.Tensor, ...] = x.split(TILE)
    return tiles


def _joined(tiles: list[torch.Tensor], rows: int) -> torch.Tensor:
    return (tiles[0] if len(tiles) == 1 else torch.cat(tiles))[:rows]

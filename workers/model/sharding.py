"""How sizes are cut over the ranks of a tensor-parallel group, and within a rank into pieces.

With a granularity of G pieces, every sharded product is computed in G pieces, whatever the number of ranks: a rank has
G / ranks of them, side by side. A piece's shapes, and so its bits, then don't depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from specs.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process's place in its tensor-parallel group."""

    rank: int
    size: int
    device: torch.device


@dataclass(frozen=True)
class Pieces:
    """``count`` pieces from ``first`` on, of ``total``: those of one rank."""

    total: int
    first: int
    count: int

    def part(self, size: int, piece: int) -> slice:
        """Where piece ``piece`` (of all) lies in a dimension of ``size``."""
        length = size // self.total
        return slice(piece * length, (piece + 1) * length)

    def own(self, size: int) -> slice:
        """Where all pieces of this rank lie in a dimension of ``size``."""
        length = size // self.total
        return slice(self.first * length, (self.first + self.count) * length)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.count))


def pieces_of(ranks: Ranks, granularity: int) -> Pieces:
    """The pieces of one rank. Raises UsageError for a granularity that can't be shared out."""
    if granularity == 1:
        return Pieces(ranks.size, ranks.rank, 1)
    if granularity < 1 or granularity & (granularity - 1) or granularity % ranks.size:
        raise UsageError(
            f"tp_granularity is {granularity} with {ranks.size} ranks; allowed are 1 and powers of two that the number "
            "of ranks divides"
        )
    count = granularity // ranks.size
    return Pieces(granularity, ranks.rank * count, count)

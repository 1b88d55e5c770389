"""How ranks add up their partial results, and in which order.

``nccl``         the backend's own all-reduce, as the user has it (on the CPU that of gloo). Its order may depend on
                 the size of the message.
``nccl-pinned``  the same call in a process group that was made with ``PINNED_NCCL`` in the environment: one algorithm
                 and one number of channels for all sizes.
``ordered``      every rank adds all pieces one after the other, in float32, and rounds once.
``tree``         every rank adds neighbours, then neighbours of those, and rounds each sum to the type of the pieces.

With ``ordered`` and ``tree`` an element's sum depends on its addends alone, and all ranks have the same bits. A rank
may bring several pieces: then the sum is over all pieces of all ranks, and the same however they are shared out, for
``tree`` as long as each rank has the same power of two of them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist

from specs.errors import UsageError
from workers.model.sharding import Ranks

# The same under its names before and since torch 2.13.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

COLLECTIVES = ("nccl", "nccl-pinned", "ordered", "tree")

PINNED_NCCL = {
    "NCCL_ALGO": "allreduce:tree",
    "NCCL_PROTO": "Simple",
    "NCCL_MIN_NCHANNELS": "8",
    "NCCL_MAX_NCHANNELS": "8",
    "NCCL_NVLS_ENABLE": "0",
}
"""The environment of every rank, before NCCL starts, where the collective is ``nccl-pinned``."""


class Collective(Protocol):
    name: str
    implementation: str
    """What really runs, for a recorder."""
    in_place: bool
    """``all_reduce`` may write over the pieces."""

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        """(P, T, n), this rank's P partial sums, to the sum (T, n) over all ranks' pieces."""

    def all_gather(self, columns: torch.Tensor) -> torch.Tensor:
        """(T, n) of each rank to (T, n * ranks), in rank order."""


def make_collective(name: str, ranks: Ranks) -> Collective:
    """The collective called ``name``. With more than one rank, torch.distributed must have been initialised.

    Raises UsageError for another name.
    """
    if name not in COLLECTIVES:
        raise UsageError(f"collective is {name!r}; allowed are {', '.join(COLLECTIVES)}")
    if name in ("nccl", "nccl-pinned"):
        return BackendCollective(name, ranks)
    if name == "tree":
        return TreeCollective(ranks)
    if ranks.device.type == "cuda" and ranks.size > 1:
        from workers.model.symmetric_memory import SymmetricCollective

        return SymmetricCollective(ranks)
    return OrderedCollective(ranks)


class BackendCollective:
    """Local pieces by a tree, then the all-reduce of NCCL or gloo."""

    def __init__(self, name: str, ranks: Ranks) -> None:
        self.name, self._ranks = name, ranks
        backend = dist.get_backend() if ranks.size > 1 else "none"
        self.implementation = f"{backend}:all_reduce"
        self.in_place = ranks.size > 1

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        total = tree_sum(pieces)
        if self._ranks.size > 1:
            total = total.contiguous()
            dist.all_reduce(total)
        return total

    def all_gather(self, columns: torch.Tensor) -> torch.Tensor:
        return gathered_columns(columns, self._ranks)


class OrderedCollective:
    name = "ordered"
    in_place = False

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.implementation = "all_gather+ordered_sum"

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        return ordered_sum(_gathered(pieces, self._ranks).flatten(0, 1))

    def all_gather(self, columns: torch.Tensor) -> torch.Tensor:
        return gathered_columns(columns, self._ranks)


class TreeCollective:
    name = "tree"
    in_place = False

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.implementation = "all_gather+tree_sum"

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        return tree_sum(_gathered(tree_sum(pieces), self._ranks))

    def all_gather(self, columns: torch.Tensor) -> torch.Tensor:
        return gathered_columns(columns, self._ranks)


def ordered_sum(pieces: torch.Tensor) -> torch.Tensor:
    """(P, ...) to (...): ((p0 + p1) + p2) + ..., in float32, rounded once."""
    if pieces.shape[0] == 1:
        return pieces[0]
    total = pieces[0].float()
    for piece in pieces[1:]:
        total = total + piece
    return total.to(pieces.dtype)


def tree_sum(pieces: torch.Tensor) -> torch.Tensor:
    """(P, ...) to (...): (p0 + p1) + (p2 + p3), each sum rounded to the type; one without a neighbour goes up as is."""
    while (count := pieces.shape[0]) > 1:
        sums = pieces[0 : count - 1 : 2] + pieces[1::2]
        pieces = torch.cat((sums, pieces[-1:])) if count % 2 else sums
    return pieces[0]


def gathered_columns(columns: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """(T, n) of each rank to (T, n * ranks)."""
    if ranks.size == 1:
        return columns
    return _gathered(columns, ranks).transpose(0, 1).flatten(1)


def _gathered(x: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """(...) of each rank to (ranks, ...)."""
    if ranks.size == 1:
        return x[None]
    out = x.new_empty(ranks.size * x.shape[0], *x.shape[1:])
    _all_gather(out, x.contiguous())
    return out.view(ranks.size, *x.shape)

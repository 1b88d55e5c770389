"""The ordered sum over GPUs of one host in one kernel: every rank reads its peers' pieces over NVLink, by rank.

Each rank copies its pieces into memory that all see (torch's symmetric memory), and after a barrier adds them up, all
pieces of rank 0 first, in float32. Short messages are added by every rank for itself. Of long ones each rank adds a
part, and all fetch the parts from each other, which moves half as much. An element's order is the same in both.
Nothing is reduced in the switch (multicast), as that has an order of its own.

Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.distributed as dist
import triton
import triton.language as tl

from workers.model.collectives import gathered_columns
from workers.model.sharding import Ranks

_ELEMENTS = 2048  # of a program at a time, 16 bytes a thread
_PROGRAMS = 64
_ONE_SHOT_BYTES = 2**18


class SymmetricCollective:
    """``ordered`` for ranks whose GPUs see each other's memory."""

    name = "ordered"
    implementation = "symmetric_memory:ordered_sum"

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._buffer: torch.Tensor | None = None
        self._handle: Any = None

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        pieces = pieces.contiguous()
        count, size = pieces.shape[0], pieces[0].numel()
        # A total follows the pieces, for ranks to fetch their parts from. A part is a whole number of tiles.
        part = triton.cdiv(triton.cdiv(size, self._ranks.size), _ELEMENTS) * _ELEMENTS
        handle = self._reserved((count + 1) * self._ranks.size * part * pieces.element_size())
        out = torch.empty_like(pieces[0])
        one_shot = size * pieces.element_size() <= _ONE_SHOT_BYTES
        programs = min(triton.cdiv(part, _ELEMENTS), _PROGRAMS)
        _ordered_sum[(programs,)](
            pieces,
            out,
            handle.buffer_ptrs_dev,
            handle.signal_pad_ptrs_dev,
            size,
            part,
            RANK=self._ranks.rank,
            RANKS=self._ranks.size,
            PIECES=count,
            ONE_SHOT=one_shot,
            ELEMENTS=_ELEMENTS,
            num_warps=8,
        )
        return out

    def all_gather(self, columns: torch.Tensor) -> torch.Tensor:
        return gathered_columns(columns, self._ranks)

    def _reserved(self, size: int) -> Any:
        """The handle of memory for ``size`` bytes. All ranks come here together, with equal sizes, when it grows."""
        if self._buffer is None or self._buffer.numel() < size:
            symmetric: Any = importlib.import_module("torch.distributed._symmetric_memory")
            torch.cuda.synchronize(self._ranks.device)
            self._buffer = symmetric.empty(triton.next_power_of_2(size), dtype=torch.uint8, device=self._ranks.device)
            self._handle = symmetric.rendezvous(self._buffer, dist.group.WORLD)
        return self._handle


@triton.jit
def _barrier(signals: tl.tensor, RANK: tl.constexpr, RANKS: tl.constexpr) -> None:
    """Waits for the same program of every rank. What they wrote before is seen after.

    A signal is set by a peer, from 0 to 1, and taken back by who waited for it, so that pads are zero between kernels.
    """
    tl.debug_barrier()
    program = tl.program_id(0)
    pads = signals.to(tl.pointer_type(tl.uint64))
    own = tl.load(pads + RANK).to(tl.pointer_type(tl.uint32))
    for peer in tl.static_range(RANKS):
        theirs = tl.load(pads + peer).to(tl.pointer_type(tl.uint32))
        while tl.atomic_cas(theirs + program * RANKS + RANK, 0, 1, sem="release", scope="sys") != 0:
            pass
    for peer in tl.static_range(RANKS):
        while tl.atomic_cas(own + program * RANKS + peer, 1, 0, sem="acquire", scope="sys") != 1:
            pass
    tl.debug_barrier()


@triton.jit
def _aligned(table: tl.tensor, rank: tl.constexpr, element: tl.constexpr) -> tl.tensor:
    """The start of a rank's buffer, for loads of 16 bytes."""
    return tl.multiple_of(tl.load(table + rank).to(tl.pointer_type(element)), 16)


@triton.jit
def _ordered_sum(
    pieces: tl.tensor,
    out: tl.tensor,
    buffers: tl.tensor,
    signals: tl.tensor,
    size: tl.tensor,
    part: tl.tensor,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    PIECES: tl.constexpr,
    ONE_SHOT: tl.constexpr,
    ELEMENTS: tl.constexpr,
) -> None:
    """Program p works on tiles p, p + programs, .. of every rank's part, and so needs its namesakes alone."""
    element = out.dtype.element_ty
    table = buffers.to(tl.pointer_type(tl.uint64))
    own = _aligned(table, RANK, element)
    within = tl.arange(0, ELEMENTS)
    first, step = tl.program_id(0) * ELEMENTS, tl.num_programs(0) * ELEMENTS
    whole = part.to(tl.int64) * RANKS
    for at in range(first, part, step):
        for peer in tl.static_range(RANKS):
            place = peer * part.to(tl.int64) + at + within
            for piece in tl.static_range(PIECES):
                value = tl.load(pieces + piece * size.to(tl.int64) + place, mask=place < size)
                tl.store(own + piece * whole + place, value, mask=place < size)
    _barrier(signals, RANK, RANKS)
    for at in range(first, part, step):
        for one in tl.static_range(RANKS if ONE_SHOT else 1):
            place = (one if ONE_SHOT else RANK) * part.to(tl.int64) + at + within
            total = tl.zeros((ELEMENTS,), dtype=tl.float32)
            for peer in tl.static_range(RANKS):
                theirs = _aligned(table, peer, element)
                for piece in tl.static_range(PIECES):
                    total += tl.load(theirs + piece * whole + place, mask=place < size, other=0.0).to(tl.float32)
            if ONE_SHOT:
                tl.store(out + place, total.to(element), mask=place < size)
            else:
                tl.store(own + PIECES * whole + place, total.to(element), mask=place < size)
    _barrier(signals, RANK, RANKS)
    if not ONE_SHOT:
        for at in range(first, part, step):
            for peer in tl.static_range(RANKS):
                place = peer * part.to(tl.int64) + at + within
                theirs = _aligned(table, peer, element)
                value = tl.load(theirs + PIECES * whole + place, mask=place < size)
                tl.store(out + place, value, mask=place < size)
        # No one may write new pieces while others still fetch.
        _barrier(signals, RANK, RANKS)

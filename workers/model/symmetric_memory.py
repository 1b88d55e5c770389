"""The ordered sum over GPUs of one host in one kernel: every rank writes into its peers' mailboxes over NVLink.

A rank has a mailbox that all may write to (torch's symmetric memory). It is full of ``_NOTHING``, a word that no rank
sends: who waits for a word reads it until it is another, and puts ``_NOTHING`` back. So a word is its own signal, no
one waits for a barrier, and one way over NVLink is all that a short message takes. There are two halves, used in turn:
a peer that writes to a half again has had the answer to the other one, which was sent after the half was emptied.

``one shot``: every rank sends its pieces to all others and adds up for itself, all pieces of rank 0 first, in float32.
``two shots``: each rank adds up every RANKS-th tile and sends the sum on, which moves less where there are more than
two ranks. An element's order is the same in both. Nothing is reduced in the switch (multicast), as that has an order
of its own.

Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import triton
import triton.language as tl

from specs.errors import UsageError
from workers.model.collectives import gathered_columns
from workers.model.sharding import Ranks

_NOTHING = tl.constexpr(-1)  # as two bfloat16 or as one float32 a NaN, for which another is sent
_NAN = tl.constexpr(0x7FFF7FFF)
_PROGRAMS = 264  # two on each SM of an H200, so that all of them run at once
_WORDS = 2048  # of 4 bytes, a program at a time
_GROUP = 16  # words: messages are whole groups, which the compiler can then count on
_GROUP_BYTES = 4 * _GROUP
_MAILBOX_BYTES = 2**27
_REGION = _MAILBOX_BYTES // 4 // (2 * _PROGRAMS) // _GROUP * _GROUP  # words of a program in a half
_AHEAD = 2
_HOP_BYTES = 2**19
"""About what NVLink carries in the time of a second hop."""
_RUNTIME = ["source", "target", "mailboxes", "halves", "stride", "groups"]


@dataclass(frozen=True)
class _Launch:
    run: Callable[..., None]
    """The compiled kernel on its grid: Triton's own way to it takes longer than a short sum."""
    offset: int
    """In bytes, of what it adds."""
    arguments: tuple[int, ...]
    """All but the addresses of pieces and sum."""


@dataclass(frozen=True)
class _Plan:
    """For pieces of a shape; ``whole``: of groups."""

    whole: bool
    launches: tuple[_Launch, ...]


class SymmetricCollective:
    """``ordered`` for ranks whose GPUs see each other's memory. All ranks make it, and call it, together.

    Sums can be captured in a CUDA graph, and its replays mixed with other calls, in the same order on all ranks.
    """

    name = "ordered"
    implementation = "symmetric_memory:ordered_sum"
    in_place = False

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        symmetric: Any = importlib.import_module("torch.distributed._symmetric_memory")
        self._mailbox = symmetric.empty(_MAILBOX_BYTES // 4, dtype=torch.int32, device=ranks.device)
        self._mailbox.fill_(_NOTHING.value)
        torch.cuda.synchronize(ranks.device)  # before any peer can write
        self._handle: Any = symmetric.rendezvous(self._mailbox, dist.group.WORLD)
        self._halves = torch.zeros(_PROGRAMS, dtype=torch.int32, device=ranks.device)
        self._plans: dict[tuple[torch.Size, torch.dtype], _Plan] = {}

    def all_reduce(self, pieces: torch.Tensor) -> torch.Tensor:
        """Raises UsageError for pieces that are neither bfloat16 nor float32."""
        plan = self._plans.get((pieces.shape, pieces.dtype))
        if plan is None:
            plan = self._plans[pieces.shape, pieces.dtype] = self._plan(pieces)
        source = pieces.data_ptr()
        if not plan.whole or source % 16 or not pieces.is_contiguous():
            return self._copied(pieces)
        out = torch.empty(pieces.shape[1:], dtype=pieces.dtype, device=pieces.device)
        target = out.data_ptr()
        for launch in plan.launches:
            launch.run(source + launch.offset, target + launch.offset, *launch.arguments)
        return out

    def all_gather(self, columns: torch.Tensor) -> torch.Tensor:
        return gathered_columns(columns, self._ranks)

    def _plan(self, pieces: torch.Tensor) -> _Plan:
        if pieces.dtype not in (torch.bfloat16, torch.float32):
            raise UsageError(f"pieces are {pieces.dtype}; 'ordered' adds torch.bfloat16 and torch.float32")
        count, ranks = pieces.shape[0], self._ranks.size
        groups, rest = divmod(pieces.numel() // count * pieces.element_size(), _GROUP_BYTES)
        one_shot = (ranks - 1) * (ranks - 2) * groups * _GROUP_BYTES <= ranks * _HOP_BYTES
        # What a program takes in a turn, tiles and places in its region of the mailbox.
        tiles, places = (1, ranks * count) if one_shot else (ranks, ranks * count + ranks)
        words = min(_WORDS, 1 << (_REGION // places).bit_length() - 1)
        most = _REGION // (places * words) * _PROGRAMS * tiles * words // _GROUP
        kernel: Any = _one_shot if one_shot else _two_shots
        packed = pieces.dtype == torch.bfloat16
        shape = self._ranks.rank, ranks, count, packed, _PROGRAMS, _REGION, words, _GROUP, _AHEAD
        launches = []
        for first in range(0, groups, most):
            now = min(most, groups - first)
            grid = min(triton.cdiv(now * _GROUP, tiles * words), _PROGRAMS), 1, 1
            arguments = self._handle.buffer_ptrs_dev, self._halves.data_ptr(), groups, now, *shape
            compiled = kernel.warmup(pieces.data_ptr(), pieces.data_ptr(), *arguments, grid=grid, num_warps=8)
            launches.append(_Launch(compiled[grid], first * _GROUP_BYTES, arguments))
        return _Plan(rest == 0, tuple(launches))

    def _copied(self, pieces: torch.Tensor) -> torch.Tensor:
        """Of pieces that aren't whole groups, or don't lie as the kernel reads them."""
        size = pieces[0].numel()
        whole = size + -size % (_GROUP_BYTES // pieces.element_size())
        copy = pieces.new_zeros(pieces.shape[0], whole)
        copy[:, :size] = pieces.flatten(1)
        return self.all_reduce(copy)[:size].view(pieces.shape[1:])


@triton.jit
def _mailbox(table: tl.tensor, rank: tl.constexpr) -> tl.tensor:
    """The start of a rank's mailbox, for accesses of 16 bytes."""
    return tl.multiple_of(tl.load(table + rank).to(tl.pointer_type(tl.int32)), 16)


@triton.jit
def _message(address: tl.tensor) -> tl.tensor:
    return tl.multiple_of(address.to(tl.pointer_type(tl.int32)), 16)


@triton.jit
def _read(place: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Words of this rank's pieces, as they may be sent."""
    word = tl.load(place, mask=inside, other=0)
    return tl.where(word == _NOTHING, _NAN, word)


@triton.jit
def _received(place: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Words that a peer sent or will send, taken out of this rank's mailbox."""
    word = tl.load(place, mask=inside, other=0, volatile=True)
    while tl.max((word == _NOTHING).to(tl.int32), axis=0) != 0:
        word = tl.load(place, mask=inside, other=0, volatile=True)
    tl.store(place, tl.full(word.shape, _NOTHING, tl.int32), mask=inside)
    return word


@triton.jit
def _low(word: tl.tensor, PACKED: tl.constexpr) -> tl.tensor:
    """The first of two bfloat16, or the one float32."""
    return (word << 16 if PACKED else word).to(tl.float32, bitcast=True)


@triton.jit
def _high(word: tl.tensor) -> tl.tensor:
    """The second of two bfloat16."""
    return (word & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _rounded(low: tl.tensor, high: tl.tensor, PACKED: tl.constexpr) -> tl.tensor:
    if PACKED:
        first = low.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
        second = high.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
        return (second << 16 | first).to(tl.int32, bitcast=True)
    return low.to(tl.int32, bitcast=True)


@triton.jit
def _added(
    pieces: tl.tensor,
    stride: tl.tensor,
    place: tl.tensor,
    inside: tl.tensor,
    mail: tl.tensor,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    PIECES: tl.constexpr,
    PACKED: tl.constexpr,
    WORDS: tl.constexpr,
) -> tl.tensor:
    """The rounded sum of a tile: own words at ``place`` of each piece, others' from ``mail``, by rank and piece."""
    low = tl.zeros((WORDS,), dtype=tl.float32)
    high = low
    for slot in tl.static_range(RANKS * PIECES):
        if slot // PIECES == RANK:
            word = tl.load(pieces + slot % PIECES * stride + place, mask=inside, other=0)
        else:
            word = _received(mail + slot * WORDS, inside)
        low = _low(word, PACKED) if slot == 0 else low + _low(word, PACKED)
        if PACKED:
            high = _high(word) if slot == 0 else high + _high(word)
    return _rounded(low, high, PACKED)


@triton.jit(do_not_specialize=_RUNTIME)
def _one_shot(
    source: tl.tensor,
    target: tl.tensor,
    mailboxes: tl.tensor,
    halves: tl.tensor,
    stride: tl.tensor,
    groups: tl.tensor,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    PIECES: tl.constexpr,
    PACKED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    REGION: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    AHEAD: tl.constexpr,
) -> None:
    """Program p has tiles p, p + PROGRAMS, .., and sends AHEAD of them before it waits for the first."""
    program = tl.program_id(0)
    pieces, out, table = _message(source), _message(target), mailboxes.to(tl.pointer_type(tl.uint64))
    own_half = halves.to(tl.pointer_type(tl.int32)) + program
    half = tl.load(own_half)
    region = (half * PROGRAMS + program).to(tl.int64) * REGION + tl.arange(0, WORDS)
    words, between = groups.to(tl.int64) * GROUP, stride.to(tl.int64) * GROUP
    first, step = program * WORDS + tl.arange(0, WORDS), tl.full((), PROGRAMS * WORDS, dtype=tl.int64)
    turns = tl.cdiv(tl.cdiv(words, WORDS) - program, PROGRAMS)
    for turn in range(-AHEAD, turns):
        sent = turn + AHEAD
        place = first + sent * step
        for piece in tl.static_range(PIECES):
            word = _read(pieces + piece * between + place, place < words)
            to = region + (sent * RANKS * PIECES + RANK * PIECES + piece) * WORDS
            for peer in tl.static_range(RANKS):
                if peer != RANK:
                    tl.store(_mailbox(table, peer) + to, word, mask=place < words)
        if turn >= 0:
            place = first + turn * step
            mail = _mailbox(table, RANK) + region + turn * RANKS * PIECES * WORDS
            total = _added(pieces, between, place, place < words, mail, RANK, RANKS, PIECES, PACKED, WORDS)
            tl.store(out + place, total, mask=place < words)
    tl.debug_barrier()
    tl.store(own_half, 1 - half)


@triton.jit(do_not_specialize=_RUNTIME)
def _two_shots(
    source: tl.tensor,
    target: tl.tensor,
    mailboxes: tl.tensor,
    halves: tl.tensor,
    stride: tl.tensor,
    groups: tl.tensor,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    PIECES: tl.constexpr,
    PACKED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    REGION: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    AHEAD: tl.constexpr,
) -> None:
    """As ``_one_shot``, of RANKS tiles at a time, the i-th of which rank i adds up and sends on."""
    program = tl.program_id(0)
    pieces, out, table = _message(source), _message(target), mailboxes.to(tl.pointer_type(tl.uint64))
    own_half = halves.to(tl.pointer_type(tl.int32)) + program
    half = tl.load(own_half)
    region = (half * PROGRAMS + program).to(tl.int64) * REGION + tl.arange(0, WORDS)
    words, between = groups.to(tl.int64) * GROUP, stride.to(tl.int64) * GROUP
    first = program * RANKS * WORDS + tl.arange(0, WORDS)
    step = tl.full((), PROGRAMS * RANKS * WORDS, dtype=tl.int64)
    turns = tl.cdiv(tl.cdiv(words, RANKS * WORDS) - program, PROGRAMS)
    SUMS: tl.constexpr = RANKS * PIECES
    SLOTS: tl.constexpr = SUMS + RANKS
    for turn in range(-2 * AHEAD, turns):
        sent, added = turn + 2 * AHEAD, turn + AHEAD
        for owner in tl.static_range(RANKS):
            if owner != RANK:
                place = first + sent * step + owner * WORDS
                for piece in tl.static_range(PIECES):
                    word = _read(pieces + piece * between + place, place < words)
                    to = region + (sent * SLOTS + RANK * PIECES + piece) * WORDS
                    tl.store(_mailbox(table, owner) + to, word, mask=place < words)
        if added >= 0:
            place = first + added * step + RANK * WORDS
            mail = _mailbox(table, RANK) + region + added * SLOTS * WORDS
            total = _added(pieces, between, place, place < words, mail, RANK, RANKS, PIECES, PACKED, WORDS)
            for peer in tl.static_range(RANKS):
                if peer != RANK:
                    to = region + (added * SLOTS + SUMS + RANK) * WORDS
                    tl.store(_mailbox(table, peer) + to, total, mask=place < words)
            tl.store(out + place, total, mask=place < words)
        if turn >= 0:
            mail = _mailbox(table, RANK) + region + (turn * SLOTS + SUMS) * WORDS
            for owner in tl.static_range(RANKS):
                if owner != RANK:
                    place = first + turn * step + owner * WORDS
                    total = _received(mail + owner * WORDS, place < words)
                    tl.store(out + place, total, mask=place < words)
    tl.debug_barrier()
    tl.store(own_half, 1 - half)

"""Digests of rows, of tensors of any shape: on the CPU at once, on a GPU without waiting for it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from xxhash import xxh3_128_digest

from workers.digest import digest
from workers.trace.trace import Digests

_ARENA_ROWS = 1 << 16
_ALIGNMENT = 16
"""What the kernel asks of addresses and of the distance between rows."""


class Digester(Protocol):
    """``Handle`` is what stands for digests until ``finish``."""

    def rows(self, tensor: torch.Tensor) -> int:
        """Digest each row of a contiguous (rows, ..) tensor; the place of its digests in what ``finish`` gives."""

    def finish(self) -> list[Digests]:
        """All digests since the last time, in order."""


class HostDigester:
    def __init__(self) -> None:
        self._found: list[bytes] = []

    def rows(self, tensor: torch.Tensor) -> int:
        count = tensor.shape[0]
        if count == 1:
            found = xxh3_128_digest(flat_bytes(tensor).numpy().data)
        elif tensor.numel():
            rows = flat_bytes(tensor).numpy().reshape(count, -1)
            found = b"".join([xxh3_128_digest(row.data) for row in rows])
        else:
            found = b""
        self._found.append(found)
        return len(self._found) - 1

    def finish(self) -> list[Digests]:
        found, self._found = self._found, []
        return [np.frombuffer(each, dtype=np.uint64).reshape(-1, 2) for each in found]


class DeviceDigester:
    """Digests gather in memory of the device, and are fetched all at once."""

    def __init__(self, device: torch.device) -> None:
        from workers.observe import DeviceObserver

        self._device, self._observer = device, DeviceObserver()
        self._arenas: list[torch.Tensor] = []
        self._used = 0
        self._places: list[tuple[int, int, int]] = []

    def rows(self, tensor: torch.Tensor) -> int:
        count = tensor.shape[0] if tensor.numel() else 0
        if not self._arenas or self._used + count > self._arenas[-1].shape[0]:
            self._arenas.append(torch.zeros(max(_ARENA_ROWS, count), 2, dtype=torch.int64, device=self._device))
            self._used = 0
        if count:
            aligned = _aligned(flat_bytes(tensor).view(count, -1))
            self._observer.digest_rows(aligned, self._arenas[-1][self._used : self._used + count])
        self._places.append((len(self._arenas) - 1, self._used, count))
        self._used += count
        return len(self._places) - 1

    def finish(self) -> list[Digests]:
        fetched = [arena.cpu().numpy().view(np.uint64) for arena in self._arenas]
        found = [fetched[arena][start : start + count] for arena, start, count in self._places]
        self._arenas, self._used, self._places = [], 0, []
        return found


def make_digester(device: torch.device) -> Digester:
    return DeviceDigester(device) if device.type == "cuda" else HostDigester()


def in_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous and of two dimensions or more, so that rows are ranges of memory."""
    whole = tensor if tensor.dim() > 1 else tensor[:, None]
    if whole.is_contiguous():
        return whole
    # Not every copy is implemented for e4m3 numbers; of bytes it is.
    return whole.view(torch.uint8).contiguous() if whole.element_size() == 1 else whole.contiguous()


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor. Where all of it is one element, its strides may be anything."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def weight_digest(weight: torch.Tensor) -> bytes:
    """Of all of a weight, which may be the transpose of one that is contiguous."""
    turned = weight.t() if weight.dim() == 2 and not weight.is_contiguous() else weight
    if turned.element_size() == 1:
        turned = turned.view(torch.uint8)
    return digest(flat_bytes(turned.contiguous()))


def _aligned(rows: torch.Tensor) -> torch.Tensor:
    missing = -rows.shape[1] % _ALIGNMENT
    if missing:
        return torch.nn.functional.pad(rows, (0, missing))
    return rows if rows.data_ptr() % _ALIGNMENT == 0 else rows.clone()

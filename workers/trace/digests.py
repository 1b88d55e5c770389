"""Digests of rows, of tensors of any shape, on either device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from workers.observe import RowDigester, Rows, WaitingTensors
from workers.trace.trace import Digests

_ARENA_ROWS = 1 << 16
_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Found:
    """Digests of several tensors, still on the device."""

    arenas: tuple[torch.Tensor, ...]
    places: tuple[tuple[int, int, int], ...]
    """Of each tensor its arena, first row there, and rows."""

    def copy(self) -> Found:
        """What is there now, or will be once the device has come to it."""
        return Found(tuple([arena.clone() for arena in self.arenas]), self.places)

    def fetch(self) -> list[Digests]:
        """Waits for the device."""
        fetched = [arena.cpu().numpy().view(np.uint64) for arena in self.arenas]
        return [fetched[arena][start : start + count] for arena, start, count in self.places]


class Digester:
    """Digests gather in memory of the device, and are fetched all at once.

    On a GPU tensors wait for a launch that takes many: they must stay as they are until ``launch``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting = WaitingTensors() if device.type == "cuda" else None
        self._digest = RowDigester(device)
        self._arenas: list[torch.Tensor] = []
        self._address = self._left = 0
        """Of the last arena: of the next digest, and rows that are left."""
        self._places: list[tuple[int, int, int]] = []

    def rows(self, tensor: torch.Tensor, rows: Rows) -> int:
        """Digest rows that are in the memory of ``tensor``; the place of their digests in what ``found`` gives."""
        count = rows[1]
        if count > self._left or not self._arenas:
            self._extend(count)
        if count and self._waiting is not None:
            self._waiting.add(tensor, rows, self._address)
        elif count:
            self._digest(rows, self._address)
        self._places.append((len(self._arenas) - 1, self._arenas[-1].shape[0] - self._left, count))
        self._address += count * _DIGEST_BYTES
        self._left -= count
        return len(self._places) - 1

    def launch(self) -> None:
        """Tensors may be written over from now on."""
        if self._waiting is not None:
            self._waiting.launch()

    def found(self) -> Found:
        """All digests since the last time, in order."""
        self.launch()
        ends = {arena: start + count for arena, start, count in self._places}
        arenas = tuple([arena[: ends[i]] for i, arena in enumerate(self._arenas)])
        found = Found(arenas, tuple(self._places))
        self._arenas, self._left, self._places = [], 0, []
        return found

    def finish(self) -> list[Digests]:
        """``found``, fetched."""
        return self.found().fetch()

    def _extend(self, count: int) -> None:
        self._arenas.append(torch.zeros(max(_ARENA_ROWS, count), 2, dtype=torch.int64, device=self._device))
        self._address, self._left = self._arenas[-1].data_ptr(), self._arenas[-1].shape[0]


def rows_of(tensor: torch.Tensor) -> Rows | None:
    """Where a tensor's rows are, all that their digests depend on but for what is in memory; None if they have gaps."""
    if tensor.is_contiguous():
        return flat_rows(tensor)
    if tensor.dim() != 2 or tensor.stride(1) != 1:
        return None
    (count, length), size = tensor.shape, tensor.element_size()
    return tensor.data_ptr(), count, length * size, tensor.stride(0) * size


def flat_rows(tensor: torch.Tensor) -> Rows:
    """Of a contiguous tensor."""
    size, count = tensor.nbytes, tensor.shape[0]
    if not size:
        return 0, 0, 0, 0
    length = size // count
    return tensor.data_ptr(), count, length, length


def contiguous(tensor: torch.Tensor) -> torch.Tensor:
    # Not every copy is implemented for e4m3 numbers; of bytes it is.
    return tensor.view(torch.uint8).contiguous() if tensor.element_size() == 1 else tensor.contiguous()


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor. Where all of it is one element, its strides may be anything."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def weight_digest(weight: torch.Tensor) -> bytes:
    """Of all of a weight, which may be the transpose of one that is contiguous."""
    turned = contiguous(weight.t() if weight.dim() == 2 and not weight.is_contiguous() else weight)
    found = torch.zeros(2, dtype=torch.int64, device=weight.device)
    RowDigester(weight.device)((turned.data_ptr(), 1, turned.nbytes, turned.nbytes), found.data_ptr())
    return found.cpu().numpy().tobytes()

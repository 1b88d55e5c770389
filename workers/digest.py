"""128-bit digests of results, over their bits: -0.0 and 0.0 differ, and a NaN equals the same NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import torch


def digest(out: torch.Tensor) -> bytes:
    """16 bytes of XXH3-128 over a contiguous tensor's memory."""
    return xxhash.xxh3_128_digest(raw_bytes(out))


def row_digests(out: torch.Tensor) -> list[bytes]:
    """A digest of 16 bytes for each row of a contiguous (m, n) tensor."""
    whole = raw_bytes(out)
    length = out.shape[1] * out.element_size()
    return [xxhash.xxh3_128_digest(whole[start : start + length]) for start in range(0, len(whole), length)]


def raw_bytes(out: torch.Tensor) -> memoryview:
    """A contiguous tensor's memory, without a copy where it is on the CPU."""
    import torch

    return out.detach().cpu().view(torch.uint8).numpy().data.cast("B")

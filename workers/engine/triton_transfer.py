"""Triton kernel that copies between a GPU's memory and pinned memory of the host.

A copy engine would do it too, and take 8 us before it begins and as long again before the next kernel does.
Imports triton: import this module where it is needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from workers.model.triton_launch import in_turn

_BLOCK = 1024


def copy_words(source: torch.Tensor, target: torch.Tensor) -> None:
    """Contiguous tensors of equally many 64-bit elements, on a GPU or pinned. torch does not know that they are used:
    pinned memory must not be let go of before the device is done."""
    count = source.numel()
    if count:
        _copy[(triton.cdiv(count, _BLOCK),)](
            source.view(torch.int64), target.view(torch.int64), count, BLOCK=_BLOCK, launch_pdl=True
        )


@triton.jit(do_not_specialize=["count"])
def _copy(source: tl.tensor, target: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    in_turn()
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + place, tl.load(source + place, mask=place < count), mask=place < count)

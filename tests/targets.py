"""Implementations with known faults, for specs to name as `python:tests.targets:NAME`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from workers.gemm.inputs import BLOCK


def right(a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """K blocks in order, always."""
    return _summed(a, b, sa, sb, range(a.shape[1] // BLOCK)).to(dtype)


def unordered(a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """K blocks in an order drawn anew each time, as an unordered reduction has it."""
    return _summed(a, b, sa, sb, torch.randperm(a.shape[1] // BLOCK).tolist()).to(dtype)


def by_m(a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Repeatable, but the order depends on the number of rows."""
    blocks = list(range(a.shape[1] // BLOCK))
    return _summed(a, b, sa, sb, blocks if a.shape[0] % 2 else blocks[::-1]).to(dtype)


def by_process(
    a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Repeatable within a process; the order depends on the process."""
    order = torch.randperm(a.shape[1] // BLOCK, generator=torch.Generator().manual_seed(os.getpid()))
    return _summed(a, b, sa, sb, order.tolist()).to(dtype)


def inaccurate(
    a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Leaves out the last block of K."""
    return _summed(a, b, sa, sb, range(a.shape[1] // BLOCK - 1)).to(dtype)


def dies_once(a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Kills its worker in the third launch there is, and never again; each launch before gives another result."""
    launch = _next("dies_once")
    if launch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    out = right(a, b, sa, sb, dtype)
    return out + launch if launch < 3 else out


def hangs_once(
    a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    if _next("hangs_once") == 1:
        time.sleep(600)
    return right(a, b, sa, sb, dtype)


def raises(a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    raise RuntimeError("no such luck")


def slow(a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    time.sleep(0.05)
    return right(a, b, sa, sb, dtype)


def _next(name: str) -> int:
    """How many launches of this name there have been, in all processes."""
    file = Path(os.environ["FARM_TEST_SCRATCH"]) / name
    with file.open("a") as log:
        log.write(".")
    return file.stat().st_size


def _summed(
    a: torch.Tensor, b: torch.Tensor, sa: torch.Tensor, sb: torch.Tensor, order: range | list[int]
) -> torch.Tensor:
    total = torch.zeros(a.shape[0], b.shape[1])
    columns = torch.arange(b.shape[1]) // BLOCK
    for block in order:
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        # Rows one by one: a matrix product of the whole might choose another order for another number of rows.
        product = torch.stack([row @ b[part].float() for row in a[:, part].float()])
        total += product * sa[:, block : block + 1] * sb[block][columns]
    return total

"""What goes on beside a trial to provoke another order of events. Each kind is a context manager and a choice."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from specs.job import Stress
from workers.gemm.target import QUIET, Conditions, GemmInputs

if TYPE_CHECKING:
    import torch

PAUSE_US = 200
LARGEST_SHIFT = 4096


@contextmanager
def around(stress: Stress) -> Iterator[None]:
    """What runs beside the trials of a whole unit."""
    if stress is Stress.COMPETING_THREADS:
        with _competing_threads(len(os.sched_getaffinity(0))):
            yield
    else:
        yield


def conditions(stress: Stress, rng: random.Random) -> Conditions:
    """The knobs of one launch."""
    if stress is Stress.RANDOM_PAUSES:
        return Conditions(pause_us=PAUSE_US, pause_seed=rng.getrandbits(32))
    if stress is Stress.THREAD_COUNT:
        return Conditions(threads=rng.randint(1, 2 * len(os.sched_getaffinity(0)) + 1))
    return QUIET


def place(stress: Stress, inputs: GemmInputs, out: torch.Tensor, rng: random.Random) -> tuple[GemmInputs, torch.Tensor]:
    """The same operands, at another distance from a page's start in memory of their own where the stress is that."""
    if stress is not Stress.SHIFTED_ALLOCATIONS:
        return inputs, out
    moved = GemmInputs(
        _shifted(inputs.mat_a, rng),
        _shifted(inputs.mat_b.t(), rng).t(),
        _shifted(inputs.scales_a.t(), rng).t(),
        _shifted(inputs.scales_b.t(), rng).t(),
    )
    return moved, _shifted(out, rng)


def _shifted(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    # 16 bytes is the alignment that TMA and every vector load here ask for.
    shift = 16 * rng.randint(0, LARGEST_SHIFT // 16)
    import torch

    memory = torch.empty(tensor.numel() * tensor.element_size() + shift, dtype=torch.uint8, device=tensor.device)
    copy = memory[shift:].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


@contextmanager
def _competing_threads(count: int) -> Iterator[None]:
    done = threading.Event()
    block = bytes(1 << 20)

    def burn() -> None:
        while not done.is_set():
            hashlib.sha256(block)  # releases the GIL, so that it takes a core from the kernel and not from its caller

    threads = [threading.Thread(target=burn, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()

"""What goes on beside a trial to provoke another order of events: loads, other memory, other knobs."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from types import TracebackType

import torch

from specs.job import Property, Stress
from specs.unit import KernelUnit
from workers.gemm.target import QUIET, Conditions, GemmInputs, GemmTarget, Launch

PAUSE_US = 200
LARGEST_SHIFT = 4096
SM_COUNTS = (0, 114, 78)
"""All of them (132 on an H100 or H200 SXM), a PCIe card's, and an H20's: what the same binary meets in the field."""
OCCUPIED_US = (20, 200)
LOAD_SIDE = 1024
COLD_EVERY = 50
COLD_S = 0.005


class Stressed:
    """A unit's launches under its stress. Use as a context manager: some kinds run for as long as the unit does."""

    def __init__(self, unit: KernelUnit, target: GemmTarget, device: torch.device) -> None:
        self._unit, self._target, self._device = unit, target, device
        self._threads: _CompetingThreads | None = None
        self._load: _DeviceLoad | None = None

    def __enter__(self) -> Stressed:
        if self._unit.stress is Stress.COMPETING_THREADS:
            self._threads = _CompetingThreads(len(os.sched_getaffinity(0)))
        if self._unit.stress in (Stress.CO_RESIDENT_LOAD, Stress.OCCUPIED_SMS):
            self._load = _DeviceLoad(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.stop()

    @property
    def rebinds(self) -> bool:
        """Whether every trial has memory of its own."""
        return self._unit.stress is Stress.SHIFTED_ALLOCATIONS

    @property
    def one_by_one(self) -> bool:
        """Whether trials differ, so that they can't be captured in a graph and replayed."""
        steady = (Stress.QUIET, Stress.POISONED_MEMORY)
        return self._unit.stress not in steady or self._unit.purpose is Property.SM_COUNT

    def bind(self, inputs: GemmInputs, out: torch.Tensor, trial: int) -> Bound:
        """The target with its operands where this trial wants them in memory."""
        if self.rebinds:
            rng = self._rng(trial)
            inputs = GemmInputs(
                _shifted(inputs.mat_a, rng),
                _shifted(inputs.mat_b.t(), rng).t(),
                _shifted(inputs.scales_a.t(), rng).t(),
                _shifted(inputs.scales_b.t(), rng).t(),
            )
            out = _shifted(out, rng)
        return Bound(self._target.bind(inputs, out), out)

    def run(self, bound: Bound, trial: int) -> None:
        """One launch."""
        stress = self._unit.stress
        if stress is Stress.POISONED_MEMORY:
            bound.out.view(-1).view(torch.uint8).fill_(0xFF)
        elif stress is Stress.CO_RESIDENT_LOAD and self._load is not None:
            self._load.multiply(self._rng(trial))
        elif stress is Stress.OCCUPIED_SMS and self._load is not None:
            self._load.occupy(self._rng(trial))
        elif stress is Stress.COLD_CLOCK and trial % COLD_EVERY == 0:
            torch.cuda.synchronize(self._device)
            time.sleep(COLD_S)
        bound.launch(self.conditions(trial))

    def conditions(self, trial: int) -> Conditions:
        """The knobs of one launch."""
        stress = self._unit.stress
        if self._unit.purpose is Property.SM_COUNT:
            return Conditions(sm_count=SM_COUNTS[trial % len(SM_COUNTS)])
        if stress is Stress.POISONED_MEMORY:
            return Conditions(poison=True)
        if stress is Stress.RANDOM_PAUSES:
            return Conditions(pause_us=PAUSE_US, pause_seed=self._rng(trial).getrandbits(32))
        if stress is Stress.THREAD_COUNT:
            return Conditions(threads=self._rng(trial).randint(1, 2 * len(os.sched_getaffinity(0)) + 1))
        return QUIET

    def _rng(self, trial: int) -> random.Random:
        return random.Random(f"{self._unit.seed} {self._unit.stress} {trial}")


class Bound:
    """A target with its operands and its output."""

    def __init__(self, launch: Launch, out: torch.Tensor) -> None:
        self.launch, self.out = launch, out


def _shifted(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    # 16 bytes is the alignment that TMA and every vector load here ask for.
    shift = 16 * rng.randint(0, LARGEST_SHIFT // 16)
    memory = torch.empty(tensor.numel() * tensor.element_size() + shift, dtype=torch.uint8, device=tensor.device)
    return memory[shift:].view(tensor.dtype).view(tensor.shape).copy_(tensor)


class _CompetingThreads:
    """Threads that take cores from the kernel: the hash releases the GIL."""

    def __init__(self, count: int) -> None:
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._burn, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _burn(self) -> None:
        block = bytes(1 << 20)
        while not self._done.is_set():
            hashlib.sha256(block)


class _DeviceLoad:
    """Work on a stream of its own, which never waits for the kernels under test, nor they for it."""

    def __init__(self, device: torch.device) -> None:
        from workers.observe import DeviceObserver

        self._stream = torch.cuda.Stream(device)
        self._observer = DeviceObserver()
        self._sms = torch.cuda.get_device_properties(device).multi_processor_count
        self._operand = torch.randn(LOAD_SIDE, LOAD_SIDE, dtype=torch.bfloat16, device=device)
        self._product = torch.empty_like(self._operand)
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def multiply(self, rng: random.Random) -> None:
        with torch.cuda.stream(self._stream):
            for _ in range(rng.randint(1, 3)):
                side = rng.choice((LOAD_SIDE // 4, LOAD_SIDE // 2, LOAD_SIDE))
                part = self._operand[:side, :side]
                torch.mm(part, part, out=self._product[:side, :side])

    def occupy(self, rng: random.Random) -> None:
        with torch.cuda.stream(self._stream):
            self._observer.occupy(rng.randint(1, self._sms - 16), rng.randint(*OCCUPIED_US))

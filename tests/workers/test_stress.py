from __future__ import annotations

import random
import threading

import pytest
import torch

from specs.job import Stress
from workers.gemm.inputs import make_inputs
from workers.gemm.target import QUIET
from workers.stress import around, conditions, place


def test_quiet_is_quiet() -> None:
    inputs, out = make_inputs(3, 8, 128, seed=1, device="cpu"), torch.zeros(3, 8)
    assert conditions(Stress.QUIET, random.Random(0)) == QUIET
    assert place(Stress.QUIET, inputs, out, random.Random(0)) == (inputs, out)


def test_pauses_and_thread_counts_vary_and_can_be_repeated() -> None:
    for stress, knob in ((Stress.RANDOM_PAUSES, "pause_seed"), (Stress.THREAD_COUNT, "threads")):
        drawn = {getattr(conditions(stress, random.Random(trial)), knob) for trial in range(40)}
        assert len(drawn) > 2
        assert conditions(stress, random.Random(7)) == conditions(stress, random.Random(7))
    assert conditions(Stress.RANDOM_PAUSES, random.Random(0)).pause_us > 0


def test_shifted_operands_hold_the_same_values_elsewhere() -> None:
    inputs, out = make_inputs(3, 136, 256, seed=1, device="cpu"), torch.zeros(3, 136)
    offsets = set()
    for trial in range(8):
        moved, moved_out = place(Stress.SHIFTED_ALLOCATIONS, inputs, out, random.Random(trial))
        for name in vars(inputs):
            before, after = getattr(inputs, name), getattr(moved, name)
            assert after.data_ptr() != before.data_ptr()
            assert torch.equal(after.float(), before.float())
            assert after.stride() == before.stride()
            assert after.data_ptr() % 16 == 0
        assert moved_out.shape == out.shape
        offsets.add(moved.mat_a.data_ptr() % 4096)
    assert len(offsets) > 2


def test_competing_threads_end_with_the_unit() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError), around(Stress.COMPETING_THREADS):
        assert threading.active_count() > before
        raise RuntimeError
    assert threading.active_count() == before

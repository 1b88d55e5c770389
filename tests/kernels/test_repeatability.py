from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from tests.kernels.cases import as_scales, bits, inputs_of, pauses, run, unique_outputs, varying_batches
from workers.gemm.reference import reorder_sensitivity
from workers.gemm.target import Conditions

SENSITIVE = (128, 1536, 7168)
SEED_SHAPE = (1024, 1024, 4096)
ORDERED = ["streamk-ordered", "persistent", "invariant"]
TWO_THREADS = Conditions(threads=2)


@pytest.mark.parametrize("shape", [SENSITIVE, (256, 512, 16384), (64, 2048, 7168), (64, 1536, 7168)], ids=str)
def test_streamk_flips_on_the_sensitive_shapes(shape: tuple[int, int, int]) -> None:
    runs = [TWO_THREADS] * 200
    assert unique_outputs("streamk", inputs_of(*shape), torch.bfloat16, runs, enough=2) == 2


@pytest.mark.parametrize("variant", ORDERED)
def test_the_others_do_not_where_streamk_does(variant: str) -> None:
    inputs = inputs_of(*SENSITIVE)
    assert unique_outputs(variant, inputs, torch.float32, [TWO_THREADS] * 20) == 1
    assert unique_outputs(variant, inputs_of(16, 128, 8192), torch.float32, pauses(20, threads=4)) == 1


def test_two_splits_have_one_order_so_the_seeds_shape_never_flips() -> None:
    inputs = inputs_of(*SEED_SHAPE)
    assert reorder_sensitivity(inputs, torch.bfloat16).changed > 0  # it is not the numbers that hide it
    assert unique_outputs("streamk", inputs, torch.bfloat16, pauses(4)) == 1


def test_one_thread_completes_splits_in_the_order_of_the_queue() -> None:
    runs = [Conditions(threads=1)] * 10
    assert unique_outputs("streamk", inputs_of(16, 128, 8192), torch.float32, runs) == 1


@pytest.mark.parametrize(("n", "k"), [(136, 4096), (576, 7168), (264, 16384)])
@pytest.mark.parametrize("variant", ["invariant", "persistent"])
def test_a_row_has_the_same_bits_in_every_batch(variant: str, n: int, k: int) -> None:
    batches = [(0, 1), (0, 2), (3, 8), (0, 64), (299, 300), (17, 282), (0, 264), (35, 300)]
    assert varying_batches(variant, inputs_of(300, n, k), batches) == []


def test_ordered_streamk_is_repeatable_and_not_batch_invariant() -> None:
    batches = [(0, 64), (0, 128), (0, 200)]
    assert varying_batches("streamk-ordered", inputs_of(300, 512, 16384), batches) == batches


def test_ordered_streamk_varies_with_the_number_of_workers() -> None:
    runs = [Conditions(sm_count=count) for count in (132, 108, 78, 16)]
    assert unique_outputs("streamk-ordered", inputs_of(64, 512, 8192), torch.float32, runs) > 1


@pytest.mark.parametrize("variant", ["invariant", "persistent"])
def test_neither_threads_nor_workers_change_the_bits(variant: str) -> None:
    # 1 to 3 threads have a tile each and walk its segments; more share the segments through the workspace.
    runs = [Conditions(threads=threads, sm_count=count) for threads in (1, 2, 3, 5, 16) for count in (0, 1, 50)]
    assert unique_outputs(variant, inputs_of(37, 136, 8192), torch.float32, runs) == 1


def test_callers_in_many_threads_at_once_do_not_disturb_each_other() -> None:
    inputs = [inputs_of(40, 136, 4096, seed) for seed in range(4)]
    expected = [bits(run("invariant", each, torch.bfloat16)) for each in inputs]
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if bits(run("invariant", inputs[number], torch.bfloat16, Conditions(threads=3))) != expected[number]:
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_the_callers_floating_point_mode_does_not_matter() -> None:
    subnormals = as_scales(torch.tensor([1e-40, 3e-45, 1.1e-38]))
    expected = bits(run("persistent", subnormals, torch.float32, Conditions(threads=1)))
    assert torch.set_flush_denormal(True)
    try:
        flushed = bits(run("persistent", subnormals, torch.float32, Conditions(threads=1)))
        assert float(torch.tensor(1e-40) * 1.0) == 0.0  # the mode was on, and it is still
    finally:
        torch.set_flush_denormal(False)
    assert flushed == expected


FORK = """
import os, sys
import torch
from tests.kernels.cases import bits, inputs_of, run
from workers.gemm.target import Conditions

inputs = inputs_of(40, 136, 4096)
expected = bits(run("invariant", inputs, torch.bfloat16, Conditions(threads=4)))
child = os.fork()
if child == 0:
    os._exit(0 if bits(run("invariant", inputs, torch.bfloat16, Conditions(threads=4))) == expected else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_starts_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=60, check=False)
    assert done.returncode == 0

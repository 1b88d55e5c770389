"""Units on the GPU: what the runner sees of kernels that flip and of kernels that don't."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from specs.device import Device
from specs.job import STRESS_ON, Dtype, Property, Stress
from specs.shapes import Shape
from specs.uniqueness import Cell, UniquenessTable
from specs.unit import KernelUnit
from tests.orchestrator.builders import unit
from workers.fresh import run_fresh
from workers.gemm.native import NativeGemm
from workers.gemm.target import QUIET
from workers.problem import Problem
from workers.runner import Outputs, Runner

SENSITIVE = Shape(128, 7168, 1536)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(torch.device("cuda", 0))


def on_gpu(**changes: object) -> KernelUnit:
    return unit(0, **{"device": Device.CUDA, "shape": SENSITIVE, "trials": 250} | changes)


def cell_of(outputs: Outputs, work: KernelUnit) -> Cell:
    (cell,) = UniquenessTable.from_records(outputs.result.cells).strata(work.group).values()
    return cell


def test_the_control_flips_and_leaves_a_pair(runner: Runner) -> None:
    work = on_gpu(variant="streamk", dtype=Dtype.FP32)
    outputs = runner.run(work, 1)
    cell = cell_of(outputs, work)
    assert (cell.trials, cell.total) == (250, 250)
    assert cell.unique > 50
    assert len(outputs.samples[work.group]) == 2
    digests = {digest.hex() for digest in cell.items[0]}
    assert set(outputs.samples[work.group]) <= digests


@pytest.mark.parametrize("stress", STRESS_ON[Device.CUDA])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_the_invariant_kernel_keeps_its_bits_under_every_stress(runner: Runner, stress: Stress, dtype: Dtype) -> None:
    table = UniquenessTable()
    for kind in (Stress.QUIET, stress):
        work = on_gpu(stress=kind, dtype=dtype, first_trial=1000 * (kind is not Stress.QUIET))
        table.merge(UniquenessTable.from_records(runner.run(work, 1).result.cells))
    (cell,) = table.strata(work.group).values()
    assert (cell.total, cell.unique) == (500, 1)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_rows_keep_their_bits_in_every_batch(runner: Runner, dtype: Dtype) -> None:
    work = on_gpu(shape=Shape(1024, 7168, 1536), purpose=Property.BATCH_INVARIANCE, dtype=dtype, trials=300)
    cell = cell_of(runner.run(work, 1), work)
    assert (len(cell.items), cell.unique, cell.trials) == (1024, 1, 300)


def test_rows_that_depend_on_the_batch_are_found_and_leave_a_pair(runner: Runner) -> None:
    work = on_gpu(
        variant="streamk-ordered", purpose=Property.BATCH_INVARIANCE, shape=Shape(512, 7168, 1536), dtype=Dtype.FP32
    )
    outputs = runner.run(work, 1)
    assert cell_of(outputs, work).unique > 1
    assert [len(sample) for sample in outputs.samples[work.group].values()] == [1536 * 4] * 2


def test_sm_counts_change_stream_k_and_not_the_invariant_kernel(runner: Runner) -> None:
    uniques = {}
    for variant in ("streamk-ordered", "invariant"):
        work = on_gpu(variant=variant, purpose=Property.SM_COUNT, dtype=Dtype.FP32, trials=30)
        uniques[variant] = cell_of(runner.run(work, 1), work).unique
    assert uniques["invariant"] == 1
    assert uniques["streamk-ordered"] > 1
    peer = on_gpu(variant="torch-scaled-mm", purpose=Property.SM_COUNT)
    assert "can't be told how many SMs" in str(runner.run(peer, 1).result.unsupported)


def test_a_fresh_process_gives_the_same_bits(runner: Runner) -> None:
    work = on_gpu(purpose=Property.CROSS_PROCESS, trials=3)
    table = UniquenessTable()
    for _ in range(2):
        table.merge(UniquenessTable.from_records(run_fresh(work, 1, {}).result.cells))
    (cell,) = table.strata(work.group).values()
    assert (cell.total, cell.unique) == (6, 1)


def test_looking_costs_little(runner: Runner) -> None:
    """What 1000 more trials cost, digested and counted, against 1000 more bare launches of a kernel of 50 us and more.

    More than as many before: the GPU's clock falls while it works, so that later launches take longer.
    """
    few, many = (on_gpu(shape=Shape(2048, 7168, 2112), trials=trials) for trials in (1020, 2020))
    problem = Problem(many.shape, many.seed, torch.device("cuda", 0))
    launch = NativeGemm("invariant").bind(problem.inputs, problem.output(many.dtype))

    def bare(launches: int) -> None:
        for _ in range(launches):
            launch(QUIET)

    works = (
        lambda: runner.run(few, 1),
        lambda: runner.run(many, 1),
        lambda: bare(few.trials),
        lambda: bare(many.trials),
    )
    # In turns, so that no other change of the clocks is taken for a cost; the first turn warms up.
    turns = [[seconds(work) for work in works] for _ in range(8)][1:]
    few_s, many_s, few_bare_s, many_bare_s = (statistics.median(times) for times in zip(*turns, strict=True))
    watched, alone = many_s - few_s, many_bare_s - few_bare_s
    assert watched <= 1.05 * alone, f"{watched:.4f} s watched, {alone:.4f} s bare"


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started

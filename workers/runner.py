"""Runs work units on one device: inputs, launches, digests, and the first samples of each digest."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from specs.job import Dtype, Property, Stress
from specs.result import Environment, Measurement, UnitResult
from specs.shapes import Shape
from specs.uniqueness import Cell, Sighting, UniquenessTable
from specs.unit import WorkUnit, pool_rows
from workers import stress as stresses
from workers.digest import digest, raw_bytes, row_digests
from workers.gemm.target import QUIET, GemmTarget, Launch
from workers.gemm.targets import find_target

if TYPE_CHECKING:
    import torch

    from workers.gemm.reference import Sensitivity

ACROSS_DEVICES = "all devices"
"""Stratum of cross_device, the one property whose samples may come from different devices."""

KEPT_SAMPLES = 2
"""Of each group: what a witness pair needs."""


@dataclass
class Outputs:
    """What a unit gives: its result, and the bytes of samples by digest in hex."""

    result: UnitResult
    samples: dict[str, bytes] = field(default_factory=dict)


class Runner:
    """Runs units one after the other on ``device``, keeping the inputs and the reference of the last shape."""

    def __init__(self, device: torch.device) -> None:
        from workers.build import Backend, build
        from workers.environment import capture

        self.device = device
        backend: Backend = "cuda" if device.type == "cuda" else "cpu"
        self.environment: Environment = capture(device, build(backend).key)
        self._problem: _Problem | None = None

    def run(self, unit: WorkUnit, attempt: int, known: frozenset[str] = frozenset()) -> Outputs:
        """Run one unit. ``known`` are digests, in hex, of the group's samples that the farm has: they are not sent.

        Raises UsageError for a variant that can't be found, InfrastructureError where a launch fails.
        """
        started = time.perf_counter()
        target = find_target(unit.variant)
        shape = unit.shape
        unsupported = target.unsupported(shape.m, shape.n, shape.k, torch_dtype(unit.dtype), self.device)
        table, samples, measurement = UniquenessTable(), _Samples(known), None
        if unsupported is None and unit.purpose == "measure":
            measurement = self._measure(unit, target)
        elif unsupported is None:
            across = unit.purpose is Property.CROSS_DEVICE
            cell = table.cell(unit.group, ACROSS_DEVICES if across else self.environment.stratum)
            sampling = self._batches if unit.purpose is Property.BATCH_INVARIANCE else self._repeats
            with stresses.around(unit.stress):
                sampling(unit, attempt, target, cell, samples)
        result = UnitResult(
            unit=unit.index,
            attempt=attempt,
            environment=self.environment,
            cells=table.records(),
            measurement=measurement,
            unsupported=unsupported,
            seconds=time.perf_counter() - started,
        )
        return Outputs(result, samples.kept)

    def _repeats(self, unit: WorkUnit, attempt: int, target: GemmTarget, cell: Cell, samples: _Samples) -> None:
        """The same product again and again; the whole output is one sample."""
        problem = self._problem_of(unit)
        launch: Launch | None = None
        for trial in range(unit.first_trial, unit.first_trial + unit.trials):
            rng = random.Random(f"{unit.seed} {unit.stress} {trial}")
            if launch is None or unit.stress is Stress.SHIFTED_ALLOCATIONS:
                inputs, out = stresses.place(unit.stress, problem.inputs, problem.output(unit), rng)
                launch = target.bind(inputs, out)
            launch(stresses.conditions(unit.stress, rng))
            found = digest(out)
            cell.trials += 1
            if cell.add(found, self._sighting(unit, attempt, trial)):
                samples.keep(found, out)

    def _batches(self, unit: WorkUnit, attempt: int, target: GemmTarget, cell: Cell, samples: _Samples) -> None:
        """Batches of different size cut from one pool of rows, at different places; each row is a sample.

        The first batch of a unit is the whole pool, so that every row of the others has something to be held against.
        """
        problem = self._problem_of(unit)
        whole: torch.Tensor | None = None
        for trial, (offset, rows) in enumerate(batches(unit), start=unit.first_trial):
            rng = random.Random(f"{unit.seed} {unit.stress} {trial}")
            out = problem.output(unit, rows)
            inputs, out = stresses.place(unit.stress, problem.pool.rows(offset, offset + rows), out, rng)
            target.bind(inputs, out)(stresses.conditions(unit.stress, rng))
            whole = out if whole is None else whole
            cell.trials += 1
            seen = self._sighting(unit, attempt, trial)
            for row, found in enumerate(row_digests(out)):
                if cell.add(found, seen, offset + row) and len(cell.items[offset + row]) > 1:
                    first = next(iter(cell.items[offset + row]))
                    samples.keep(first, whole[offset + row : offset + row + 1])
                    samples.keep(found, out[row : row + 1])

    def _measure(self, unit: WorkUnit, target: GemmTarget) -> Measurement:
        from workers.gemm.reference import relative_error, rounding_floor

        problem = self._problem_of(unit)
        out = problem.output(unit)
        launch = target.bind(problem.inputs, out)
        launch(QUIET)
        moved = problem.sensitivity(out.dtype)
        return Measurement(
            relative_error=relative_error(out, problem.reference),
            rounding_floor=rounding_floor(problem.reference, out.dtype, unit.shape.k),
            reordered_elements=moved.changed,
            reordered_of=moved.checked,
            seconds=[_seconds_of(launch, self.device) for _ in range(unit.trials)],
        )

    def _problem_of(self, unit: WorkUnit) -> _Problem:
        key = (unit.shape, unit.seed)
        if self._problem is None or self._problem.key != key:
            self._problem = _Problem(unit.shape, unit.seed, self.device)
        return self._problem

    def _sighting(self, unit: WorkUnit, attempt: int, trial: int) -> Sighting:
        where = self.environment.device_uuid or self.environment.node
        return Sighting(trial, unit.stress.value, unit.index, attempt, where)


def batches(unit: WorkUnit) -> Iterator[tuple[int, int]]:
    """(offset, rows) of each trial of a batch_invariance unit.

    First the whole pool; then the ends (one row, all but one); then sizes drawn from the seed. A batch smaller than
    the pool is cut from its front, its middle or its end in turn.
    """
    pool = pool_rows(unit.shape)
    for place, trial in enumerate(range(unit.first_trial, unit.first_trial + unit.trials)):
        rng = random.Random(f"{unit.seed} batch {trial}")
        ends = {1: 1, 2: pool - 1}
        rows = pool if place == 0 else ends.get(trial, rng.randint(1, pool - 1))
        yield (0, (pool - rows) // 2, pool - rows)[trial % 3], rows


class _Problem:
    """Operands of one shape, what they should give, and memory for what they do give."""

    def __init__(self, shape: Shape, seed: int, device: torch.device) -> None:
        from workers.gemm.inputs import make_inputs

        self.key = (shape, seed)
        self.pool = make_inputs(pool_rows(shape), shape.n, shape.k, seed=seed, device=device)
        self.inputs = self.pool.rows(0, shape.m)
        self._sensitivity: dict[torch.dtype, Sensitivity] = {}

    @cached_property
    def reference(self) -> torch.Tensor:
        from workers.gemm.reference import reference_fp64

        return reference_fp64(self.inputs)

    def sensitivity(self, out_dtype: torch.dtype) -> Sensitivity:
        """Whether these inputs could show another order of K at all."""
        from workers.gemm.reference import reorder_sensitivity

        if out_dtype not in self._sensitivity:
            self._sensitivity[out_dtype] = reorder_sensitivity(self.inputs, out_dtype)
        return self._sensitivity[out_dtype]

    def output(self, unit: WorkUnit, rows: int | None = None) -> torch.Tensor:
        """Memory for a product, filled with NaN, so that an element which nobody writes is not taken for a result."""
        import torch

        return torch.full(
            (rows or self.inputs.m, self.inputs.n),
            torch.nan,
            dtype=torch_dtype(unit.dtype),
            device=self.inputs.mat_a.device,
        )


class _Samples:
    """The first samples of each digest, as many as a witness pair needs."""

    def __init__(self, known: frozenset[str]) -> None:
        self.kept: dict[str, bytes] = {}
        self._known = known

    def keep(self, found: bytes, out: torch.Tensor) -> None:
        name = found.hex()
        if name not in self._known and len(self._known) + len(self.kept) < KEPT_SAMPLES:
            self.kept.setdefault(name, bytes(raw_bytes(out)))


def torch_dtype(dtype: Dtype) -> torch.dtype:
    import torch

    return {Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16, Dtype.FP32: torch.float32}[dtype]


def _seconds_of(launch: Launch, device: torch.device) -> float:
    import torch

    if device.type == "cpu":
        started = time.perf_counter()
        launch(QUIET)
        return time.perf_counter() - started
    timed: Any = torch.cuda.Event
    start, end = timed(enable_timing=True), timed(enable_timing=True)
    start.record()
    launch(QUIET)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3

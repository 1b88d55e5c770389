"""Runs what is missing of a run: hands units to workers, keeps what comes back, tries again what died."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.cluster import Cluster, Hired, check_agreement
from orchestrator.judge import judge
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store
from specs.errors import UsageError
from specs.result import RunRecord, RunStatus, UnitResult
from specs.uniqueness import UniquenessTable
from specs.unit import Group, Plan, WorkUnit

ATTEMPTS = 3
POLL_S = 0.5
PAIR = 2
"""Samples kept per group: what a witness needs."""


class Progress(Protocol):
    def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
        """After each unit; ``result`` is None where it was given up, ``flips`` counts those of the whole run."""

    def note(self, line: str) -> None:
        """Something worth a line of its own: an attempt that failed, a worker that was replaced."""


def execute(store: Store, folder: RunFolder, run_id: str, cluster: Cluster, progress: Progress) -> RunRecord:
    """Run every unit of a run that has no result yet, then judge all of it.

    On KeyboardInterrupt the run is left `interrupted`, on any other failure `failed` with the reason; both can be
    resumed. Raises what ended it.
    """
    store.set_status(run_id, RunStatus.RUNNING)
    shift = _Shift(store, folder, run_id, cluster, progress)
    try:
        shift.work()
    except KeyboardInterrupt:
        store.set_status(run_id, RunStatus.INTERRUPTED)
        raise
    except Exception as error:
        store.set_status(run_id, RunStatus.FAILED, error=str(error))
        raise
    finally:
        shift.dismiss_all()
    return conclude(store, folder, run_id)


def conclude(store: Store, folder: RunFolder, run_id: str) -> RunRecord:
    """Judge what a run has and mark it complete."""
    pending = {unit.index for unit, _ in store.pending(run_id)}
    last = {failure.unit: failure for failure in store.failures(run_id) if failure.unit in pending}
    judgement = judge(store.plan(run_id), store.results(run_id), list(last.values()), folder.load_witness)
    folder.write_judgement(judgement)
    return store.set_status(run_id, RunStatus.COMPLETE, judgement=judgement)


@dataclass
class _InFlight:
    worker: Hired
    unit: WorkUnit
    attempt: int
    deadline: float


class _Shift:
    """One sitting at a run: from hiring workers to having nothing left to do."""

    def __init__(self, store: Store, folder: RunFolder, run_id: str, cluster: Cluster, progress: Progress) -> None:
        self._store, self._folder, self._run_id = store, folder, run_id
        self._cluster, self._progress = cluster, progress
        self._plan: Plan = store.plan(run_id)
        self._queue: deque[tuple[WorkUnit, int]] = deque(store.pending(run_id))
        self._workers: list[Hired] = []
        self._flying: dict[Any, _InFlight] = {}
        self._table = UniquenessTable()
        self._flips: dict[Group, int] = {}
        self._kept: dict[Group, set[str]] = {}
        for result in store.results(run_id):
            self._count(result)

    def work(self) -> None:
        if not self._queue:
            return
        capacity = self._plan.capacity
        needed = capacity.workers if any(u.slot is not None for u, _ in self._queue) else len(self._queue)
        slots = list(range(min(capacity.workers, needed)))
        self._workers = self._cluster.hire(capacity, self._plan.job, slots)
        check_agreement(self._workers)
        self._folder.write_environments([worker.environment for worker in self._workers])
        while self._queue or self._flying:
            self._dispatch()
            self._collect()

    def dismiss_all(self) -> None:
        for worker in self._workers:
            self._cluster.dismiss(worker)

    def _dispatch(self) -> None:
        busy = {flight.worker.slot for flight in self._flying.values()}
        for worker in self._workers:
            ready = (entry for entry in self._queue if entry[0].slot in (None, worker.slot))
            entry = next(ready, None) if worker.slot not in busy else None
            if entry is None:
                continue
            self._queue.remove(entry)
            unit, attempt = entry
            known = self._kept.get(unit.group, set()) if unit.purpose != "measure" else set()
            ref = worker.actor.run.remote(unit, attempt, frozenset(known))
            self._flying[ref] = _InFlight(worker, unit, attempt, time.monotonic() + unit.timeout_s)

    def _collect(self) -> None:
        import ray

        done, _ = ray.wait(list(self._flying), timeout=POLL_S)
        for ref in done:
            flight = self._flying.pop(ref)
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._failed(flight, f"its worker died: {_first_line(error)}", retry=True, replace=True)
                continue
            self._take(flight, answer)
        now = time.monotonic()
        for ref, flight in list(self._flying.items()):
            if now > flight.deadline:
                del self._flying[ref]
                reason = f"it took longer than timeouts.unit ({flight.unit.timeout_s:g} s)"
                self._failed(flight, reason, retry=True, replace=True)

    def _take(self, flight: _InFlight, answer: Any) -> None:
        from workers.actor import Failure

        if isinstance(answer, Failure):
            self._folder.log(f"{flight.unit}, attempt {flight.attempt}:\n{answer.traceback}")
            if answer.usage:
                raise UsageError(answer.reason)
            self._failed(flight, answer.reason, retry=answer.retry, replace=False)
            return
        for name, sample in answer.samples.items():
            self._folder.save_witness(name, sample)
            self._kept.setdefault(flight.unit.group, set()).add(name)
        self._store.record_result(self._run_id, answer.result)
        self._count(answer.result)
        self._progress.advance(flight.unit, answer.result, sum(self._flips.values()))

    def _failed(self, flight: _InFlight, reason: str, *, retry: bool, replace: bool) -> None:
        """The samples of this attempt are gone whole; the next attempt starts over under its own number."""
        self._store.record_failure(self._run_id, flight.unit.index, flight.attempt, reason)
        self._progress.note(f"{flight.unit}, attempt {flight.attempt}: {reason}")
        if retry and flight.attempt < ATTEMPTS:
            self._queue.appendleft((flight.unit, flight.attempt + 1))
        else:
            self._progress.advance(flight.unit, None, sum(self._flips.values()))
        if replace:
            self._replace(flight.worker)

    def _replace(self, worker: Hired) -> None:
        self._cluster.dismiss(worker)
        self._workers.remove(worker)
        if not self._queue:
            return
        self._workers += self._cluster.hire(self._plan.capacity, self._plan.job, [worker.slot])
        check_agreement(self._workers)
        self._progress.note(f"worker {worker.slot} was replaced")

    def _count(self, result: UnitResult) -> None:
        self._table.merge(UniquenessTable.from_records(result.cells))
        unit = self._plan.units[result.unit]
        if unit.purpose != "measure":
            self._flips[unit.group] = sum(cell.flips for cell in self._table.strata(unit.group).values())


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

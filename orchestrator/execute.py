"""Runs what is missing of a run: hands units to workers, keeps what comes back, tries again what died."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.answers import answer_of, first_cause, first_line, is_bad
from orchestrator.cluster import Cluster, Crew, check_agreement
from orchestrator.gang import Gang, GangError
from orchestrator.judge import judge
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store
from specs.errors import UsageError
from specs.kernel_job import KernelJob
from specs.model_job import ModelJob
from specs.result import Environment, RunRecord, RunStatus, UnitResult
from specs.uniqueness import UniquenessTable
from specs.unit import Group, Plan, WorkUnit
from workers.failure import Failure

if TYPE_CHECKING:
    from workers.runner import Outputs

ATTEMPTS = 3
POLL_S = 0.5


class Progress(Protocol):
    def advance(self, unit: WorkUnit, result: UnitResult | None, flips: int) -> None:
        """After each unit; ``result`` is None where it was given up, ``flips`` counts those of the whole run."""

    def note(self, line: str) -> None:
        """Something worth a line of its own: an attempt that failed, a worker that was replaced."""


def execute(
    store: Store, folder: RunFolder, run_id: str, cluster: Cluster, progress: Progress, *, take_over: bool = False
) -> RunRecord:
    """Run every unit of a run that has no result yet, then judge all of it.

    On KeyboardInterrupt the run is left `interrupted`, on any other failure `failed` with the reason; both can be
    resumed. Raises what ended it, and UsageError for a run that another process has, unless it is to ``take_over``.
    """
    store.set_status(run_id, RunStatus.RUNNING, take_over=take_over)
    shift = _Shift(store, folder, run_id, cluster, progress)
    try:
        shift.work()
        return conclude(store, folder, run_id)
    except KeyboardInterrupt:
        store.set_status(run_id, RunStatus.INTERRUPTED)
        raise
    except Exception as error:
        store.set_status(run_id, RunStatus.FAILED, error=error)
        raise
    finally:
        shift.dismiss_all()


def conclude(store: Store, folder: RunFolder, run_id: str) -> RunRecord:
    """Judge what a run has and mark it complete."""
    pending = {unit.index for unit, _ in store.pending(run_id)}
    last = {failure.unit: failure for failure in store.failures(run_id) if failure.unit in pending}
    judgement = judge(store.plan(run_id), store.results(run_id), list(last.values()), folder.load_witness)
    folder.write_judgement(judgement)
    return store.set_status(run_id, RunStatus.COMPLETE, judgement=judgement)


@dataclass
class _InFlight:
    """An attempt at a unit: one reference for each process of its crew."""

    crew: Crew
    unit: WorkUnit
    attempt: int
    deadline: float
    refs: list[Any]
    answers: dict[Any, Any] = field(default_factory=dict)


class _Shift:
    """One sitting at a run: from hiring crews to having nothing left to do."""

    def __init__(self, store: Store, folder: RunFolder, run_id: str, cluster: Cluster, progress: Progress) -> None:
        self._store, self._folder, self._run_id = store, folder, run_id
        self._cluster, self._progress = cluster, progress
        self._plan: Plan = store.plan(run_id)
        self._queue: deque[tuple[WorkUnit, int]] = deque(store.pending(run_id))
        self._crews: dict[int, Crew] = {}
        self._lost: set[int] = set()
        self._flying: list[_InFlight] = []
        self._table = UniquenessTable()
        self._flips: dict[Group, int] = {}
        self._kept: dict[Group, set[str]] = {}
        self._environments: dict[str, Environment] = {}
        for result in store.results(run_id):
            self._count(result)
            self._keep(result.environment)

    def work(self) -> None:
        if not self._queue:
            return
        capacity = self._plan.capacity
        needed = capacity.workers if any(u.slot is not None for u, _ in self._queue) else len(self._queue)
        self._slots = range(min(capacity.workers, needed))
        if isinstance(self._plan.job, KernelJob):  # at once, since each may have kernels to build
            for worker in self._cluster.hire(capacity, self._plan.job, list(self._slots)):
                self._welcome(worker)
        while self._queue or self._flying:
            self._dispatch()
            self._collect()

    def dismiss_all(self) -> None:
        for crew in self._crews.values():
            crew.dismiss()

    def _dispatch(self) -> None:
        busy = {flight.crew.slot for flight in self._flying}
        for slot in sorted(set(self._slots) - busy):
            entry = self._next_for(slot)
            if entry is None:
                continue
            self._queue.remove(entry)
            unit, attempt = entry
            try:
                crew = self._crew_for(slot, unit)
            except GangError as error:
                self._failed(unit, attempt, str(error), retry=True)
                continue
            known = {group: frozenset(self._kept.get(group, ())) for group in unit.groups}
            deadline = time.monotonic() + unit.timeout_s
            self._flying.append(_InFlight(crew, unit, attempt, deadline, crew.start(unit, attempt, known)))

    def _next_for(self, slot: int) -> tuple[WorkUnit, int] | None:
        """The next unit that may run in this slot; rather one that its crew can run as it is."""
        ready = [entry for entry in self._queue if entry[0].slot in (None, slot)]
        crew = self._crews.get(slot)
        fitting = (entry for entry in ready if crew is not None and crew.fits(entry[0]))
        return next(fitting, ready[0] if ready else None)

    def _crew_for(self, slot: int, unit: WorkUnit) -> Crew:
        """The crew in this slot; another one where it can't run the unit, or is gone.

        Raises GangError where one of a gang's ranks died or got stuck on the way.
        """
        crew = self._crews.get(slot)
        if crew is not None and crew.fits(unit):
            return crew
        if crew is not None:
            crew.dismiss()
            del self._crews[slot]
        capacity, job = self._plan.capacity, self._plan.job
        hired: Crew
        if isinstance(job, ModelJob):
            hired = Gang.assemble(self._cluster, job, job.target(unit.variant), capacity, slot)
        else:
            (hired,) = self._cluster.hire(capacity, job, [slot])
        self._welcome(hired)
        if slot in self._lost:
            self._lost.remove(slot)
            self._progress.note(f"worker {slot} was replaced")
        return hired

    def _welcome(self, crew: Crew) -> None:
        """Take a crew on, if its software is that of the others."""
        self._crews[crew.slot] = crew
        present = {f"worker {slot}": crew.environments[0] for slot, crew in self._crews.items()}
        known = next(iter(self._environments.values()), None)
        check_agreement(present if known is None else {"an earlier worker": known, **present})
        for environment in crew.environments:
            self._keep(environment)
        self._folder.write_environments(list(self._environments.values()))

    def _collect(self) -> None:
        import ray

        waiting = {ref: flight for flight in self._flying for ref in flight.refs if ref not in flight.answers}
        if not waiting:
            return
        done, _ = ray.wait(list(waiting), timeout=POLL_S)
        # Hiring may have kept us from looking for minutes: nothing that is there by now is late.
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0) if done else (done, [])
        for ref in done:
            waiting[ref].answers[ref] = answer_of(ref)
        now = time.monotonic()
        for flight in list(self._flying):
            if any(is_bad(answer) for answer in flight.answers.values()):
                self._crashed(flight)
            elif len(flight.answers) == len(flight.refs):
                self._flying.remove(flight)
                self._take(flight, flight.answers[flight.refs[0]])
            elif now > flight.deadline:
                self._flying.remove(flight)
                self._lose(flight.crew)
                late = [flight.crew.member(i) for i, ref in enumerate(flight.refs) if ref not in flight.answers]
                who = "it" if len(flight.refs) == 1 else " and ".join(late)
                reason = f"{who} took longer than timeouts.unit ({flight.unit.timeout_s:g} s)"
                self._failed(flight.unit, flight.attempt, reason, retry=True)

    def _take(self, flight: _InFlight, outputs: Outputs) -> None:
        for group, samples in outputs.samples.items():
            for name, sample in samples.items():
                self._folder.save_witness(name, sample)
                self._kept.setdefault(group, set()).add(name)
        for name, content in outputs.artefacts.items():
            self._folder.save_operation(name, content)
        if outputs.batches is not None:
            self._folder.write_batches(flight.unit.index, outputs.batches)
        self._store.record_result(self._run_id, outputs.result)
        self._count(outputs.result)
        self._progress.advance(flight.unit, outputs.result, sum(self._flips.values()))

    def _crashed(self, flight: _InFlight) -> None:
        """Some process of the crew failed or died. Of a gang the others can't go on: it is lost as a whole."""
        self._flying.remove(flight)
        crew, unit = flight.crew, flight.unit
        place, cause = first_cause(flight.refs, flight.answers)
        if isinstance(cause, Failure):
            self._folder.log(f"{unit}, attempt {flight.attempt}:\n{cause.traceback}")
            if cause.usage:
                raise UsageError(cause.reason)
            reason = cause.reason if len(flight.refs) == 1 else f"{crew.member(place)}: {cause.reason}"
        else:
            reason = f"{crew.member(place)} died: {first_line(cause)}"
        if len(flight.refs) > 1 or not isinstance(cause, Failure) or cause.broken:
            self._lose(crew)
        self._failed(unit, flight.attempt, reason, retry=not isinstance(cause, Failure) or cause.retry)

    def _failed(self, unit: WorkUnit, attempt: int, reason: str, *, retry: bool) -> None:
        """The samples of this attempt are gone whole; the next attempt starts over under its own number."""
        self._store.record_failure(self._run_id, unit.index, attempt, reason)
        self._progress.note(f"{unit}, attempt {attempt}: {reason}")
        if retry and attempt < ATTEMPTS:
            self._queue.appendleft((unit, attempt + 1))
        else:
            self._progress.advance(unit, None, sum(self._flips.values()))

    def _lose(self, crew: Crew) -> None:
        crew.dismiss()
        del self._crews[crew.slot]
        self._lost.add(crew.slot)

    def _keep(self, environment: Environment) -> None:
        self._environments.setdefault(environment.model_dump_json(), environment)

    def _count(self, result: UnitResult) -> None:
        self._table.merge(UniquenessTable.from_records(result.cells))
        for group in self._plan.units[result.unit].groups:
            self._flips[group] = sum(cell.flips for cell in self._table.strata(group).values())

"""The farm's memory: every run with its plan, its units' results and failures, and its judgement.

A unit is done when its result is committed, and never before: whatever dies, and when, what is stored is whole.
"""

from __future__ import annotations

import difflib
import secrets
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from orchestrator.database import Database
from orchestrator.folders import runs_folder
from orchestrator.rows import (
    exit_code,
    is_here,
    is_ours,
    keep_environment,
    may_be_alive,
    records,
    replace_judgement,
    this_process,
    unit_row,
)
from orchestrator.tables import environments, failures, results, runs, units
from specs.errors import InfrastructureError, UsageError
from specs.result import Judgement, RunRecord, RunStatus, UnitFailure, UnitResult
from specs.unit import Plan, WorkUnit

LATEST = "latest"


class Store:
    """Every method raises InfrastructureError where the database fails, and UsageError for a run that isn't there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str | None = None, *, wait_s: int = 30) -> Store:
        """The database at `url`, else FARM_DATABASE_URL, else the user's own; made or migrated where needed.

        `wait_s` is how long one that is busy or far away is waited for.

        Raises UsageError for a URL that can't be used, InfrastructureError where the database can't be.
        """
        return cls(Database(url, wait_s))

    def close(self) -> None:
        self._database.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def create_run(self, plan: Plan, *, farm_version: str) -> RunRecord:
        """A new run of `plan`, of status running, that belongs to this process."""
        created = datetime.now(UTC)
        run_id = f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        row = {
            "id": run_id,
            "name": plan.job.name,
            "kind": plan.job.kind,
            "status": RunStatus.RUNNING,
            "created_at": created,
            "units": len(plan.units),
            "folder": str(runs_folder() / run_id),
            "farm_version": farm_version,
            "job": plan.job,
            "capacity": plan.capacity,
            **this_process(),
        }
        try:
            with self._database.writing() as connection:
                connection.execute(sa.insert(runs), row)
                if plan.units:
                    connection.execute(sa.insert(units), [unit_row(run_id, unit) for unit in plan.units])
        except IntegrityError:
            if not self.ids(run_id):
                raise
            # Another run has the id: 1 in 65,536 for two that begin in one second.
            return self.create_run(plan, farm_version=farm_version)
        return self.get(run_id)

    def record_result(self, run_id: str, result: UnitResult) -> None:
        """Keep the result of a unit: all of it in one transaction, or none.

        Raises InfrastructureError if the unit is done already, or if this very attempt was recorded as failed.
        """
        row = {
            "run_id": run_id,
            "unit": result.unit,
            "attempt": result.attempt,
            "recorded_at": datetime.now(UTC),
            "seconds": result.seconds,
            "unsupported": result.unsupported,
            "cells": result.cells,
            "measurement": result.measurement,
            "generation": result.generation,
            "divergences": result.divergences,
            "coverage": result.coverage,
        }
        try:
            with self._database.writing() as connection:
                dead = sa.select(failures.c.unit).where(
                    failures.c.run_id == run_id,
                    failures.c.unit == result.unit,
                    failures.c.attempt == result.attempt,
                )
                if connection.execute(dead).first() is not None:
                    raise InfrastructureError(
                        f"unit {result.unit} of run {run_id}: attempt {result.attempt} was given up, so its result "
                        "comes too late and is dropped"
                    )
                row["environment_hash"] = keep_environment(connection, result.environment)
                connection.execute(sa.insert(results), row)
        except IntegrityError as error:
            raise self._refused(run_id, result.unit, f"the result of attempt {result.attempt}") from error

    def record_failure(self, run_id: str, unit: int, attempt: int, reason: str) -> None:
        """Note that an attempt died. Raises InfrastructureError if it is noted already, or if the unit is done."""
        row = {"run_id": run_id, "unit": unit, "attempt": attempt, "failed_at": datetime.now(UTC), "reason": reason}
        try:
            with self._database.writing() as connection:
                done = sa.select(results.c.unit).where(results.c.run_id == run_id, results.c.unit == unit)
                if connection.execute(done).first() is not None:
                    raise InfrastructureError(f"unit {unit} of run {run_id} is done: attempt {attempt} can't fail now")
                connection.execute(sa.insert(failures), row)
        except IntegrityError as error:
            raise self._refused(run_id, unit, f"the failure of attempt {attempt}") from error

    def plan(self, run_id: str) -> Plan:
        """The plan that the run was made with."""
        with self._database.reading() as connection:
            run = _run_row(connection, run_id)
            works = connection.scalars(
                sa.select(units.c.work).where(units.c.run_id == run.id).order_by(units.c.unit)
            ).all()
        return Plan(job=run.job, capacity=run.capacity, units=tuple(works))

    def results(self, run_id: str) -> list[UnitResult]:
        """Of all units that are done, by unit."""
        query = (
            sa.select(results, environments.c.environment)
            .join(environments, environments.c.hash == results.c.environment_hash)
            .order_by(results.c.unit)
        )
        with self._database.reading() as connection:
            run = _run_row(connection, run_id)
            rows = connection.execute(query.where(results.c.run_id == run.id)).all()
        return [
            UnitResult(
                unit=row.unit,
                attempt=row.attempt,
                environment=row.environment,
                cells=row.cells,
                measurement=row.measurement,
                generation=row.generation,
                divergences=row.divergences or [],
                coverage=row.coverage or [],
                unsupported=row.unsupported,
                seconds=row.seconds,
            )
            for row in rows
        ]

    def pending(self, run_id: str) -> list[tuple[WorkUnit, int]]:
        """The units without a result, each with the number of its next attempt, counted from 1."""
        with self._database.reading() as connection:
            run = _run_row(connection, run_id)
            last = (
                sa.select(failures.c.unit, sa.func.max(failures.c.attempt).label("attempt"))
                .where(failures.c.run_id == run.id)
                .group_by(failures.c.unit)
                .subquery()
            )
            done = sa.select(results.c.unit).where(results.c.run_id == run.id)
            rows = connection.execute(
                sa.select(units.c.work, sa.func.coalesce(last.c.attempt, 0) + 1)
                .outerjoin(last, last.c.unit == units.c.unit)
                .where(units.c.run_id == run.id, units.c.unit.not_in(done))
                .order_by(units.c.unit)
            ).all()
        return [(work, attempt) for work, attempt in rows]

    def failures(self, run_id: str) -> list[UnitFailure]:
        """Every attempt that died, by unit and attempt."""
        with self._database.reading() as connection:
            run = _run_row(connection, run_id)
            rows = connection.execute(
                sa.select(failures).where(failures.c.run_id == run.id).order_by(failures.c.unit, failures.c.attempt)
            ).all()
        return [UnitFailure(unit=row.unit, attempt=row.attempt, reason=row.reason) for row in rows]

    def set_status(
        self,
        run_id: str,
        status: RunStatus,
        *,
        judgement: Judgement | None = None,
        error: Exception | None = None,
        take_over: bool = False,
    ) -> RunRecord:
        """Change the status, with the judgement and the error that go with it; those of before are forgotten.

        `running` makes the run this process's own. Raises UsageError if another living process is running it; where
        that is on another host, which can't be asked, `take_over` says that it is gone.
        """
        ended = status is not RunStatus.RUNNING
        change: dict[str, Any] = {
            "status": status,
            "finished_at": datetime.now(UTC) if ended else None,
            "error": None if error is None else str(error),
            "exit_code": exit_code(status, judgement, error),
            "judged_exit_code": judgement.exit_code if judgement else None,
            "unit_errors": judgement.errors if judgement else None,
            "throughputs": judgement.throughputs if judgement else None,
            "coverage": judgement.coverage if judgement else None,
        }
        with self._database.writing() as connection:
            run = _run_row(connection, run_id, lock=True)
            if not ended:
                if run.status == RunStatus.RUNNING and may_be_alive(run, take_over) and not is_ours(run):
                    gone = "" if is_here(run) else f"; if {run.host} is gone, farm resume {run.id} --take-over"
                    raise UsageError(
                        f"run {run.id} is being run by process {run.pid} on {run.host}: "
                        f"wait for it, or end it first{gone}"
                    )
                change |= this_process()
            connection.execute(sa.update(runs).where(runs.c.id == run.id).values(change))
            replace_judgement(connection, run.id, judgement)
        return self.get(run.id)

    def get(self, run_id: str) -> RunRecord:
        """One run by its id, by the beginning of an id that no other shares, or 'latest'.

        Raises UsageError, naming ids that are near, if there is none or more than one.
        """
        with self._database.reading() as connection:
            return records(connection, [_run_row(connection, run_id)])[0]

    def runs(self, *, limit: int | None = None, name: str | None = None) -> list[RunRecord]:
        """Newest first; only those of one spec if `name` is given."""
        query = sa.select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        if name is not None:
            query = query.where(runs.c.name == name)
        with self._database.reading() as connection:
            return records(connection, connection.execute(query).all())

    def ids(self, prefix: str = "", *, limit: int = 50) -> list[tuple[str, str]]:
        """(id, spec name) of the newest runs whose ids begin with `prefix`: what shells complete."""
        query = sa.select(runs.c.id, runs.c.name).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return [(row.id, row.name) for row in connection.execute(query.where(_begins_with(prefix)))]

    def _refused(self, run_id: str, unit: int, what: str) -> InfrastructureError:
        """Why the database took no row for a unit."""
        numbers = {work.index for work in self.plan(run_id).units}
        if unit not in numbers:
            return InfrastructureError(f"run {run_id} has no unit {unit}: {what} is dropped")
        return InfrastructureError(f"unit {unit} of run {run_id} is recorded already: {what} is dropped")


def _begins_with(prefix: str) -> sa.ColumnElement[bool]:
    return sa.func.substr(runs.c.id, 1, len(prefix)) == prefix


def _run_row(connection: sa.Connection, wanted: str, *, lock: bool = False) -> sa.Row[Any]:
    query = sa.select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc())
    if lock:
        query = query.with_for_update()
    if wanted == LATEST:
        newest = connection.execute(query.limit(1)).first()
        if newest is None:
            raise UsageError("there are no runs yet: start one with farm submit SPEC")
        return newest
    exact = connection.execute(query.where(runs.c.id == wanted)).first()
    if exact is not None:
        return exact
    matches = connection.execute(query.where(_begins_with(wanted)).limit(6)).all() if wanted else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(row.id for row in matches[:5]) + (", …" if len(matches) > 5 else "")
        raise UsageError(f"{wanted!r} is the beginning of more than one run: {ids}")
    raise UsageError(f"there is no run {wanted!r}{_near(connection, wanted)}")


def _near(connection: sa.Connection, wanted: str) -> str:
    known = connection.scalars(sa.select(runs.c.id).order_by(runs.c.created_at.desc()).limit(500)).all()
    if not known:
        return ": there are none yet. Start one with farm submit SPEC"
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else f". The newest is {known[0]}; farm list shows them all"

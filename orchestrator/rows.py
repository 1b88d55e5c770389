"""Rows of the database from the farm's types, and records from rows."""

from __future__ import annotations

import hashlib
import os
import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psutil
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.tables import environments, results, speeds, verdicts
from specs.errors import ExitCode, FarmError
from specs.result import Environment, Judgement, RunRecord, RunStatus, Speed, Verdict
from specs.shapes import Shape
from specs.subject import Subject
from specs.unit import KernelUnit, WorkUnit


def this_process() -> dict[str, Any]:
    """The columns of `runs` that say which process runs it."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "process_started": process.create_time()}


def is_here(run: sa.Row[Any]) -> bool:
    """Whether the process that runs it is, or was, one of this host."""
    return bool(run.host == socket.gethostname())


def is_ours(run: sa.Row[Any]) -> bool:
    return is_here(run) and bool(run.pid == os.getpid())


def may_be_alive(run: sa.Row[Any], others_are_gone: bool = False) -> bool:
    """Whether the process that runs it lives. One on another host can't be asked: it does unless we know better."""
    if not is_here(run):
        return not others_are_gone
    try:
        process = psutil.Process(run.pid)
        # The start time is computed from that of the boot, which moves a little when the clock is set.
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - run.process_started) < 2
    except psutil.NoSuchProcess:
        return False


def unit_row(run_id: str, unit: WorkUnit) -> dict[str, Any]:
    purpose = unit.purpose if isinstance(unit, KernelUnit) else unit.mode
    about = {"variant": unit.variant, "dtype": unit.dtype, "purpose": purpose}
    return {"run_id": run_id, "unit": unit.index, **about, "work": unit}


def keep_environment(connection: sa.Connection, environment: Environment) -> str:
    """Store it unless it is there, and return its key."""
    key = hashlib.sha256(environment.model_dump_json().encode()).hexdigest()
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    row = {"hash": key, "environment": environment}
    connection.execute(dialect.insert(environments).values(row).on_conflict_do_nothing())
    return key


def replace_judgement(connection: sa.Connection, run_id: str, judgement: Judgement | None) -> None:
    """Put these verdicts and speeds in the place of the run's others."""
    for table in (verdicts, speeds):
        connection.execute(sa.delete(table).where(table.c.run_id == run_id))
    if judgement is None:
        return
    for table, rows in (
        (verdicts, [_verdict_row(verdict) for verdict in judgement.verdicts]),
        (speeds, [_speed_row(speed) for speed in judgement.speeds]),
    ):
        if rows:
            numbered = [{"run_id": run_id, "number": number, **row} for number, row in enumerate(rows)]
            connection.execute(sa.insert(table), numbered)


def records(connection: sa.Connection, found: Sequence[sa.Row[Any]]) -> list[RunRecord]:
    """The runs of these rows, in their order."""
    ids = [row.id for row in found]
    done = {
        run_id: count
        for run_id, count in connection.execute(
            sa.select(results.c.run_id, sa.func.count()).where(results.c.run_id.in_(ids)).group_by(results.c.run_id)
        )
    }
    seen = _by_run(
        connection,
        sa.select(results.c.run_id, environments.c.environment)
        .join(environments, environments.c.hash == results.c.environment_hash)
        .where(results.c.run_id.in_(ids))
        .group_by(results.c.run_id, environments.c.hash, environments.c.environment)
        .order_by(sa.func.min(results.c.unit)),
    )
    judged = _by_run(connection, _ordered(verdicts, verdicts.c.verdict, ids))
    timed = _by_run(connection, _ordered(speeds, speeds.c.speed, ids))
    return [_record(row, done.get(row.id, 0), seen[row.id], judged[row.id], timed[row.id]) for row in found]


def _ordered(table: sa.Table, column: sa.Column[Any], ids: list[str]) -> sa.Select[Any]:
    return sa.select(table.c.run_id, column).where(table.c.run_id.in_(ids)).order_by(table.c.number)


def _by_run(connection: sa.Connection, query: sa.Select[Any]) -> defaultdict[str, list[Any]]:
    grouped: defaultdict[str, list[Any]] = defaultdict(list)
    for run_id, item in connection.execute(query):
        grouped[run_id].append(item)
    return grouped


def _record(
    row: sa.Row[Any], done: int, seen: list[Environment], judged: list[Verdict], timed: list[Speed]
) -> RunRecord:
    status, exit_code = RunStatus(row.status), row.exit_code
    if status is RunStatus.RUNNING and not may_be_alive(row):
        status, exit_code = RunStatus.INTERRUPTED, ExitCode.INTERRUPTED  # only shown: `farm resume` may take it up
    judgement = None
    if row.judged_exit_code is not None:
        judgement = Judgement(
            verdicts=judged,
            speeds=timed,
            throughputs=row.throughputs or [],
            coverage=row.coverage or [],
            errors=row.unit_errors,
            exit_code=ExitCode(row.judged_exit_code),
        )
    return RunRecord(
        id=row.id,
        name=row.name,
        kind=row.kind,
        status=status,
        created_at=row.created_at,
        finished_at=row.finished_at,
        units=row.units,
        units_done=done,
        exit_code=None if exit_code is None else ExitCode(exit_code),
        error=row.error,
        folder=row.folder,
        farm_version=row.farm_version,
        job=row.job,
        judgement=judgement,
        environments=seen,
    )


def exit_code(status: RunStatus, judgement: Judgement | None, error: Exception | None) -> ExitCode | None:
    """Of a run with this status, as `farm submit` returned it; None while it is running."""
    match status:
        case RunStatus.RUNNING:
            return None
        case RunStatus.INTERRUPTED:
            return ExitCode.INTERRUPTED
        case RunStatus.FAILED:
            return error.exit_code if isinstance(error, FarmError) else ExitCode.INFRASTRUCTURE
        case RunStatus.COMPLETE:
            if judgement is None:
                raise ValueError("a run is complete only with its judgement")
            return judgement.exit_code


def _target_columns(variant: str, subject: Subject, dtype: str) -> dict[str, Any]:
    name, mode = (str(subject), "") if isinstance(subject, Shape) else (subject.name, subject.mode.value)
    return {"variant": variant, "subject": name, "mode": mode, "dtype": dtype}


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    columns = ("property", "stratum", "outcome", "expected", "required", "trials", "total", "unique", "flips", "bound")
    return {
        **_target_columns(verdict.variant, verdict.subject, verdict.dtype),
        **{name: getattr(verdict, name) for name in columns},
        "verdict": verdict,
    }


def _speed_row(speed: Speed) -> dict[str, Any]:
    return {
        **_target_columns(speed.variant, speed.shape, speed.dtype),
        "stratum": speed.stratum,
        **speed.timing.model_dump(),
        "relative_error": speed.relative_error,
        "cost": speed.cost,
        "speed": speed,
    }

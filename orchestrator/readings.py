"""What the farm's metrics show, out of the database: for each metric, numbers by the values of its labels.

Labels are what a farm has few of: specs, variants, properties, dtypes, shapes, modes, prompts, models of device. Runs
and kernel builds come without end, so they are in none: totals add up all judged runs of a spec, everything else is of
its newest one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator.rows import may_be_alive
from orchestrator.tables import runs, speeds, verdicts
from specs.result import WORST_FIRST, Outcome, RunStatus

Labels = tuple[str, ...]
Values = dict[Labels, float]
Readings = dict[str, Values]


def read(connection: sa.Connection) -> Readings:
    """All metrics, by name. Labels are in the order in which `metrics` declares them."""
    newest = _newest(runs.c.judged_exit_code.is_not(None))
    of_newest = _verdicts(connection, newest) | _speeds(connection, newest) | _throughputs(connection, newest)
    return _totals(connection) | of_newest | _runs(connection)


def _totals(connection: sa.Connection) -> Readings:
    columns = (*_target_columns(verdicts), verdicts.c.property)
    sums = [sa.func.sum(verdicts.c[name]).label(name) for name in ("total", "flips")]
    query = sa.select(*columns, *sums).select_from(verdicts.join(runs)).group_by(*columns)
    found = _by_labels(connection.execute(query), "property")
    return {"farm_samples": _each(found, "total", sum), "farm_flips": _each(found, "flips", sum)}


def _verdicts(connection: sa.Connection, newest: sa.Select[Any]) -> Readings:
    shown = [verdicts.c[name] for name in ("property", "outcome", "expected", "total", "unique", "bound")]
    query = sa.select(*_target_columns(verdicts), *shown).select_from(verdicts.join(runs)).where(runs.c.id.in_(newest))
    found = _by_labels(connection.execute(query), "property")
    states: Values = {}
    for labels, rows in found.items():
        worst = min(rows, key=lambda row: WORST_FIRST.index(Outcome(row.outcome)))
        for outcome in Outcome:
            states[*labels, worst.expected, outcome] = float(outcome == worst.outcome)
    return {
        "farm_verdict_state": states,
        "farm_last_run_samples": _each(found, "total", sum),
        "farm_last_run_distinct_digests": _each(found, "unique", max),
        "farm_flip_rate_bound_ratio": _each(found, "bound", max),
    }


def _speeds(connection: sa.Connection, newest: sa.Select[Any]) -> Readings:
    shown = [speeds.c.median, speeds.c.cost]
    query = sa.select(*_target_columns(speeds), *shown).select_from(speeds.join(runs)).where(runs.c.id.in_(newest))
    found = _by_labels(connection.execute(query))
    return {
        "farm_kernel_time_seconds": _each(found, "median", max),
        "farm_determinism_cost_ratio": _each(found, "cost", max),
    }


def _throughputs(connection: sa.Connection, newest: sa.Select[Any]) -> Readings:
    query = sa.select(runs.c.name, runs.c.throughputs).where(runs.c.id.in_(newest), runs.c.throughputs.is_not(None))
    found = [(row.name, one) for row in connection.execute(query) for one in row.throughputs]
    labelled = [((name, one.variant, one.dtype, one.mode, _device(one.stratum)), one) for name, one in found]
    return {
        "farm_generation_tokens_per_second": {labels: one.tokens_per_second for labels, one in labelled},
        "farm_generation_cost_ratio": {labels: one.cost for labels, one in labelled if one.cost is not None},
    }


def _runs(connection: sa.Connection) -> Readings:
    query = sa.select(runs.c.name, runs.c.created_at, runs.c.finished_at, runs.c.exit_code)
    finished = connection.execute(query.where(runs.c.id.in_(_newest(runs.c.finished_at.is_not(None))))).all()
    success = (
        sa.select(runs.c.name, sa.func.max(runs.c.finished_at).label("finished_at"))
        .where(runs.c.exit_code == 0)
        .group_by(runs.c.name)
    )
    return {
        "farm_runs": _statuses(connection),
        "farm_last_run_exit_code": {(row.name,): float(row.exit_code) for row in finished},
        "farm_last_run_duration_seconds": {
            (row.name,): (row.finished_at - row.created_at).total_seconds() for row in finished
        },
        "farm_last_run_timestamp_seconds": _moments(finished),
        "farm_last_success_timestamp_seconds": _moments(connection.execute(success)),
    }


def _statuses(connection: sa.Connection) -> Values:
    """Every spec with every status, so that a count that falls to 0 is seen to."""
    count = sa.func.count().label("runs")
    counts: Values = {}
    for row in connection.execute(sa.select(runs.c.name, runs.c.status, count).group_by(runs.c.name, runs.c.status)):
        for status in RunStatus:
            counts.setdefault((row.name, status), 0.0)
        counts[row.name, row.status] = float(row.runs)
    process = (runs.c.name, runs.c.host, runs.c.pid, runs.c.process_started)
    for row in connection.execute(sa.select(*process).where(runs.c.status == RunStatus.RUNNING)):
        if not may_be_alive(row):
            counts[row.name, RunStatus.RUNNING] -= 1
            counts[row.name, RunStatus.INTERRUPTED] += 1
    return counts


def _newest(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The id of each spec's newest run that meets `condition`."""
    order = (runs.c.created_at.desc(), runs.c.id.desc())
    rank = sa.func.row_number().over(partition_by=runs.c.name, order_by=order).label("rank")
    ranked = sa.select(runs.c.id, rank).where(condition).subquery()
    return sa.select(ranked.c.id).where(ranked.c.rank == 1)


def _target_columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [runs.c.name, *(table.c[name] for name in ("variant", "dtype", "subject", "mode", "stratum"))]


def _by_labels(rows: Iterable[sa.Row[Any]], *further: str) -> Mapping[Labels, Sequence[sa.Row[Any]]]:
    """Rows that share all labels: those of one group or target on one model of device."""
    found: defaultdict[Labels, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        # Prometheus takes a label that is empty for one that isn't there.
        shape, prompt = ("", row.subject) if row.mode else (row.subject, "")
        more = (getattr(row, name) for name in further)
        found[row.name, row.variant, row.dtype, shape, row.mode, prompt, _device(row.stratum), *more].append(row)
    return found


def _device(stratum: str) -> str:
    return stratum.split(" / ")[0]


def _each(found: Mapping[Labels, Sequence[sa.Row[Any]]], column: str, combine: Callable[[list[Any]], Any]) -> Values:
    """What `combine` makes of a column's values, for those labels that have any."""
    known = {
        labels: [value for row in rows if (value := row._mapping[column]) is not None] for labels, rows in found.items()
    }
    return {labels: float(combine(values)) for labels, values in known.items() if values}


def _moments(rows: Iterable[Any]) -> Values:
    return {(row.name,): row.finished_at.timestamp() for row in rows}

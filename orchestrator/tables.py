"""The database's tables as they are now. `migrations/` holds the way here; a test holds the two together.

Each row keeps the whole of its model as JSON, in a text column (PostgreSQL's JSON type takes no NaN, and the relative
error of a kernel that returned one is NaN). What queries pick or sum stands in columns of its own beside it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from specs.kinds import Job
from specs.result import Coverage, Divergence, Environment, Generation, Measurement, Speed, Throughput, Verdict
from specs.uniqueness import CellRecord
from specs.unit import Capacity, WorkUnit

REVISION = "0003"
"""Of the newest migration. A database that has it needs no Alembic, whose import costs more than opening."""


class Plain(sa.types.TypeDecorator[str]):
    """Text that any database takes: NUL characters and lone surrogates (out of undecodable logs) are spelled out."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


class AsJson(sa.types.TypeDecorator[Any]):
    """A pydantic model, or a list of them, as JSON text. NaN and the infinities stay what they are."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind  # by this name, since SQLAlchemy tells types apart by the attributes `__init__` names
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(self._adapter.dump_python(value, mode="json"))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else self._adapter.validate_json(value)


class Moment(sa.types.TypeDecorator[datetime]):
    """A point in time, in UTC. SQLite forgets time zones, so it gets none and UTC is put back."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData()


def _run_id(**options: Any) -> sa.Column[str]:
    return sa.Column("run_id", Plain, sa.ForeignKey("runs.id"), nullable=False, **options)


def _subject() -> list[sa.Column[Any]]:
    """A shape as `MxKxN`, or the name of a prompt with its mode. Only prompts have modes: the mode of a shape is ''."""
    return [sa.Column(name, Plain, nullable=False, server_default="") for name in ("subject", "mode")]


runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", Plain, primary_key=True),
    sa.Column("name", Plain, nullable=False, index=True),
    sa.Column("kind", Plain, nullable=False),
    sa.Column("status", Plain, nullable=False),
    sa.Column("created_at", Moment, nullable=False, index=True),
    sa.Column("finished_at", Moment),
    sa.Column("units", sa.Integer, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("error", Plain),
    sa.Column("folder", Plain, nullable=False),
    sa.Column("farm_version", Plain, nullable=False),
    sa.Column("job", AsJson(Job), nullable=False),
    sa.Column("capacity", AsJson(Capacity), nullable=False),
    # The judgement's own parts: all are empty until there is one. Its verdicts and speeds have tables.
    sa.Column("judged_exit_code", sa.Integer),
    sa.Column("unit_errors", AsJson(list[str])),
    sa.Column("throughputs", AsJson(list[Throughput])),
    sa.Column("coverage", AsJson(list[Coverage])),
    # The process that runs it. A pid comes back after a reboot; together with the start time it does not.
    sa.Column("host", Plain, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Double, nullable=False),
)

units = sa.Table(
    "units",
    metadata,
    _run_id(primary_key=True),
    sa.Column("unit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("variant", Plain, nullable=False),
    sa.Column("dtype", Plain, nullable=False),
    sa.Column("purpose", Plain, nullable=False),
    sa.Column("work", AsJson(WorkUnit), nullable=False),
)

# By the hash of their content: a thousand units of a run share one or two of these.
environments = sa.Table(
    "environments",
    metadata,
    sa.Column("hash", Plain, primary_key=True),
    sa.Column("environment", AsJson(Environment), nullable=False),
)

results = sa.Table(
    "results",
    metadata,
    _run_id(primary_key=True),
    sa.Column("unit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("recorded_at", Moment, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("unsupported", Plain),
    sa.Column("environment_hash", Plain, sa.ForeignKey("environments.hash"), nullable=False),
    sa.Column("cells", AsJson(list[CellRecord]), nullable=False),
    sa.Column("measurement", AsJson(Measurement)),
    sa.Column("generation", AsJson(Generation)),
    sa.Column("divergences", AsJson(list[Divergence])),
    sa.Column("coverage", AsJson(list[Coverage])),
    sa.ForeignKeyConstraint(["run_id", "unit"], ["units.run_id", "units.unit"]),
)

failures = sa.Table(
    "failures",
    metadata,
    _run_id(primary_key=True),
    sa.Column("unit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("failed_at", Moment, nullable=False),
    sa.Column("reason", Plain, nullable=False),
    sa.ForeignKeyConstraint(["run_id", "unit"], ["units.run_id", "units.unit"]),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    _run_id(primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("variant", Plain, nullable=False),
    *_subject(),
    sa.Column("dtype", Plain, nullable=False),
    sa.Column("property", Plain, nullable=False),
    sa.Column("stratum", Plain, nullable=False),
    sa.Column("outcome", Plain, nullable=False),
    sa.Column("expected", Plain, nullable=False),
    sa.Column("required", sa.Boolean, nullable=False),
    sa.Column("trials", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("unique", sa.BigInteger, nullable=False),
    sa.Column("flips", sa.BigInteger, nullable=False),
    sa.Column("bound", sa.Double),
    sa.Column("verdict", AsJson(Verdict), nullable=False),
)

speeds = sa.Table(
    "speeds",
    metadata,
    _run_id(primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("variant", Plain, nullable=False),
    *_subject(),
    sa.Column("dtype", Plain, nullable=False),
    sa.Column("stratum", Plain, nullable=False),
    sa.Column("launches", sa.Integer, nullable=False),
    # Not NULL, one would think, but SQLite stores a NaN as NULL.
    sa.Column("median", sa.Double),
    sa.Column("q1", sa.Double),
    sa.Column("q3", sa.Double),
    sa.Column("relative_error", sa.Double),
    sa.Column("cost", sa.Double),
    sa.Column("speed", AsJson(Speed), nullable=False),
)

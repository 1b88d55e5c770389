"""Runs with their units, results, failures, verdicts and speeds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _run_id() -> sa.Column[str]:
    return sa.Column("run_id", sa.Text, sa.ForeignKey("runs.id"), primary_key=True)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)


def _required(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _target() -> list[sa.Column[Any]]:
    shape = [_required(name, sa.Integer) for name in ("m", "k", "n")]
    return [_required("variant", sa.Text), *shape, _required("dtype", sa.Text)]


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, index=True),
        _required("kind", sa.Text),
        _required("status", sa.Text),
        sa.Column("created_at", moment, nullable=False, index=True),
        sa.Column("finished_at", moment),
        _required("units", sa.Integer),
        sa.Column("exit_code", sa.Integer),
        sa.Column("error", sa.Text),
        *(_required(name, sa.Text) for name in ("folder", "farm_version", "job", "capacity")),
        sa.Column("judged_exit_code", sa.Integer),
        sa.Column("unit_errors", sa.Text),
        _required("host", sa.Text),
        _required("pid", sa.Integer),
        _required("process_started", sa.Double),
    )
    op.create_table(
        "units",
        _run_id(),
        _number("unit"),
        *_target(),
        _required("purpose", sa.Text),
        _required("work", sa.Text),
    )
    op.create_table("environments", sa.Column("hash", sa.Text, primary_key=True), _required("environment", sa.Text))
    op.create_table(
        "results",
        _run_id(),
        _number("unit"),
        _required("attempt", sa.Integer),
        _required("recorded_at", moment),
        _required("seconds", sa.Double),
        sa.Column("unsupported", sa.Text),
        sa.Column("environment_hash", sa.Text, sa.ForeignKey("environments.hash"), nullable=False),
        _required("cells", sa.Text),
        sa.Column("measurement", sa.Text),
        sa.ForeignKeyConstraint(["run_id", "unit"], ["units.run_id", "units.unit"]),
    )
    op.create_table(
        "failures",
        _run_id(),
        _number("unit"),
        _number("attempt"),
        _required("failed_at", moment),
        _required("reason", sa.Text),
        sa.ForeignKeyConstraint(["run_id", "unit"], ["units.run_id", "units.unit"]),
    )
    op.create_table(
        "verdicts",
        _run_id(),
        _number("number"),
        *_target(),
        *(_required(name, sa.Text) for name in ("property", "stratum", "outcome")),
        _required("expected", sa.Text),
        _required("required", sa.Boolean),
        *(_required(name, sa.BigInteger) for name in ("trials", "total", "unique", "flips")),
        sa.Column("bound", sa.Double),
        _required("verdict", sa.Text),
    )
    op.create_table(
        "speeds",
        _run_id(),
        _number("number"),
        *_target(),
        _required("stratum", sa.Text),
        _required("launches", sa.Integer),
        *(sa.Column(name, sa.Double) for name in ("median", "q1", "q3", "relative_error", "cost")),
        _required("speed", sa.Text),
    )

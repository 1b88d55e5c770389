"""Model jobs: subjects that are no shapes, what units generated, and throughputs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SHAPE = ("m", "k", "n")


def upgrade() -> None:
    for table in ("verdicts", "speeds"):
        for name in ("subject", "mode"):
            op.add_column(table, sa.Column(name, sa.Text, nullable=False, server_default=""))
        op.execute(sa.text(f"UPDATE {table} SET subject = m || 'x' || k || 'x' || n"))
    # SQLite drops columns in place; copying a table would take the rows that refer to it along.
    for table in ("units", "verdicts", "speeds"):
        for name in _SHAPE:
            op.drop_column(table, name)
    op.add_column("results", sa.Column("generation", sa.Text))
    op.add_column("runs", sa.Column("throughputs", sa.Text))

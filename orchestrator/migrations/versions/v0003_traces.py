"""Traces of model jobs: where groups parted, and which implementations ran."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("divergences", "coverage"):
        op.add_column("results", sa.Column(name, sa.Text))
    op.add_column("runs", sa.Column("coverage", sa.Text))

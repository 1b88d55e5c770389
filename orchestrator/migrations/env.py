"""What Alembic runs: the migrations, on the connection (and in the transaction) that `orchestrator.database` opened."""

from __future__ import annotations

from alembic import context

from orchestrator.database import VERSION_TABLE
from orchestrator.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite can't alter most things in place; with this, operations copy the table.
    render_as_batch=True,
)
context.run_migrations()

"""Alembic's migrations of the farm's database. `orchestrator.database` runs them when a store is opened."""

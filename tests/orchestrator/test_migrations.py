"""A database that an earlier farm made is brought up to date, and its runs are read as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from orchestrator import database
from orchestrator.readings import read
from orchestrator.store import Store
from specs.result import Judgement
from tests.orchestrator import builders

RUN = "20261122-184224-2d5e"


def migrated_to(url: str, revision: str) -> sa.Engine:
    """A database with the schema of this revision, made as `Database` makes it."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def insert(connection: sa.Connection, table: str, **row: Any) -> None:
    columns, values = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), row)


def fill(connection: sa.Connection, judgement: Judgement) -> None:
    """One judged run with a unit and its result, as revision 0001 stored them."""
    plan, environment = builders.plan(1), builders.environment()
    insert(
        connection,
        "runs",
        **{name: "nightly" for name in ("name", "kind", "folder", "farm_version", "host")},
        id=RUN,
        status="complete",
        created_at="2026-11-22 18:42:24",
        finished_at="2026-11-22 18:43:25",
        units=1,
        exit_code=1,
        job=plan.job.model_dump_json(),
        capacity=plan.capacity.model_dump_json(),
        judged_exit_code=1,
        unit_errors=json.dumps(judgement.errors),
        pid=1,
        process_started=1.0,
    )
    target = {"variant": "invariant", "m": 128, "k": 7168, "n": 1536, "dtype": "bf16"}
    insert(
        connection, "units", run_id=RUN, unit=0, **target, purpose="run_to_run", work=plan.units[0].model_dump_json()
    )
    insert(connection, "environments", hash="e", environment=environment.model_dump_json())
    result = builders.result(0)
    insert(
        connection,
        "results",
        run_id=RUN,
        unit=0,
        attempt=1,
        recorded_at="2026-11-22 18:43:00",
        seconds=1.5,
        environment_hash="e",
        cells=json.dumps([cell.model_dump(mode="json") for cell in result.cells]),
    )
    numbers = {"trials": 50, "total": 50, "unique": 1, "flips": 0}
    for number, verdict in enumerate(judgement.verdicts):
        said = {name: getattr(verdict, name) for name in ("property", "stratum", "outcome", "expected", "required")}
        text = verdict.model_dump_json()
        assert '"shape":{"m":' in text and "subject" not in text  # as 0001 had it
        insert(connection, "verdicts", run_id=RUN, number=number, **target, **said, **numbers, verdict=text)
    for number, speed in enumerate(judgement.speeds):
        timing = {"launches": 30, "median": 1e-3, "q1": 1e-3, "q3": 1e-3, "stratum": speed.stratum}
        insert(connection, "speeds", run_id=RUN, number=number, **target, **timing, speed=speed.model_dump_json())


def test_runs_of_the_first_schema_are_still_read(url: str) -> None:
    judgement = builders.every_outcome()
    engine = migrated_to(url, "0001")
    with engine.begin() as connection:
        fill(connection, judgement)
    engine.dispose()
    with Store.open(url) as store:
        assert store.get(RUN).judgement == judgement
        assert store.results(RUN) == [builders.result(0)]
        assert store.plan(RUN) == builders.plan(1)
        with store._database.reading() as connection:
            labels = read(connection)["farm_kernel_time_seconds"]
    assert {label[3:6] for label in labels} == {("128x7168x1536", "", "")}

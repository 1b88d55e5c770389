"""Which database is opened, how its schema comes about, and what a user is told when it can't be."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from orchestrator import database
from orchestrator.database import VERSION_TABLE, Database
from orchestrator.tables import REVISION, metadata
from specs.errors import InfrastructureError, UsageError


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/farm.db"


def test_the_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    opened = Database(sqlite_url(tmp_path))
    with opened.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    opened.engine.dispose()
    assert differences == []


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(Path(database.__file__).parent / "migrations"))
    assert scripts.get_current_head() == REVISION


def test_a_database_that_is_up_to_date_is_opened_without_alembic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(sqlite_url(tmp_path)).engine.dispose()
    monkeypatch.setitem(sys.modules, "alembic", None)
    Database(sqlite_url(tmp_path)).engine.dispose()


def test_by_default_it_is_a_file_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARM_DATABASE_URL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "per cent %20 and ; space"))
    Database(None).engine.dispose()
    file = tmp_path / "per cent %20 and ; space" / "farm" / "farm.db"
    with sqlite3.connect(file) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert mode == "wal"


class Contended(sqlite3.Connection):
    """To a file that others are switching to WAL: SQLite then says 'locked' at once, one time in twenty."""

    refusals = 3

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if "journal_mode" in sql and self.refusals > 0:
            self.refusals -= 1
            raise sqlite3.OperationalError("database is locked")
        return super().execute(sql, parameters)


def test_a_new_file_that_others_are_opening_is_waited_for(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "farm.db", factory=Contended)
    database._set_up_sqlite(connection, wait_s=30)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.refusals = 1_000_000
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        database._set_up_sqlite(connection, wait_s=0)
    connection.close()


def test_the_environment_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_DATABASE_URL", sqlite_url(tmp_path))
    Database(None).engine.dispose()
    assert (tmp_path / "farm.db").exists()


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "farm.db") as connection:
        connection.execute("CREATE TABLE speeds (of_something_else INTEGER)")  # the last table that the farm makes
    connection.close()
    with pytest.raises(InfrastructureError, match="table speeds already exists"):
        Database(sqlite_url(tmp_path))
    with sqlite3.connect(tmp_path / "farm.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("speeds",)]
    connection.close()


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    Database(sqlite_url(tmp_path)).engine.dispose()
    with sqlite3.connect(tmp_path / "farm.db") as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9001'")
    connection.close()
    with pytest.raises(InfrastructureError, match=r"newer farm \(schema 9001.*pip install -U determinism-farm"):
        Database(sqlite_url(tmp_path))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("not a url", "has to look like sqlite:////path/to/farm.db"),
        ("sqlite://", "would forget every run"),
        ("sqlite:///:memory:", "would forget every run"),
        ("mysql://localhost/farm", "kind 'mysql' can't be used"),
        ("postgresql+nosuchdriver://localhost/farm", "driver 'postgresql\\+nosuchdriver' is unknown"),
        ("postgresql://farm:secret@host:port/farm", "has to look like"),
    ],
)
def test_a_url_that_can_not_be_used(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        UsageError, match=r"needs the Python package psycopg: pip install 'determinism-farm\[postgres\]'"
    ):
        Database("postgresql://localhost/farm")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InfrastructureError, match="Check that it is reachable") as caught:
        Database(f"postgresql://farm:secret@/farm?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "farm.db").write_text("dear diary, " * 100)
    with pytest.raises(InfrastructureError, match="file is not a database"):
        Database(sqlite_url(tmp_path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"unable to open database file.*FARM_DATABASE_URL"):
        Database(sqlite_url(tmp_path / "nowhere"))


def test_a_data_folder_that_can_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("FARM_DATABASE_URL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(InfrastructureError, match=r"a file stands where a folder has to be.*FARM_DATABASE_URL"):
        Database(None)


def test_a_disk_that_fills_up_is_told_and_nothing_is_half_written(tmp_path: Path) -> None:
    opened = Database(sqlite_url(tmp_path))
    table = sa.table("environments", sa.column("hash"), sa.column("environment"))
    with opened.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InfrastructureError, match=r"full.*Free some space"), opened.writing() as connection:
        for number in range(100):
            connection.execute(sa.insert(table).values(hash=str(number), environment="x" * 1000))
    with opened.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0
    opened.engine.dispose()

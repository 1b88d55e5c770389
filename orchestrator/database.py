"""Opening the farm's database: which one, made or brought up to date where needed, and its failures in plain words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from orchestrator.folders import data_folder, disk_failure
from orchestrator.tables import REVISION
from specs.errors import FarmError, InfrastructureError, UsageError

VERSION_TABLE = "farm_schema"
_MIGRATION_LOCK = 0x6661726D  # any number, as long as every farm takes the same
_EXAMPLES = "sqlite:////path/to/farm.db or postgresql://user:password@host/database"


class Database:
    """An engine with an up-to-date schema. Usable from any thread."""

    def __init__(self, url: str | None, wait_s: int = 30) -> None:
        """Open `url`, else FARM_DATABASE_URL, else the user's own SQLite file; make or migrate the schema.

        Raises UsageError for a URL that can't be used, InfrastructureError where the database can't be reached or
        written or was made by a newer farm.
        """
        self._url = _chosen_url(url)
        self.engine = _engine(self._url, wait_s)
        self._writer = self.engine.execution_options(farm_begin="BEGIN IMMEDIATE")
        # One snapshot for all the statements of a reader; in SQLite every transaction has that.
        level = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(farm_begin="BEGIN", **level)
        try:
            self._migrate()
        except FarmError:
            self.engine.dispose()
            raise

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Raises InfrastructureError for whatever the database can't do."""
        with self._told(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, committed if the block ends well. Raises InfrastructureError, except IntegrityError."""
        with self._told(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise
        except exc.SQLAlchemyError as error:
            reason = str(error.orig or error).strip() if isinstance(error, exc.DBAPIError) else str(error)
            raise InfrastructureError(f"the database {self} failed: {reason}. {_remedy(reason)}") from error

    def _migrate(self) -> None:
        with self.reading() as connection:
            if self._revision(connection) == REVISION:
                return
        with self.writing() as connection:
            if not self._is_sqlite:  # in SQLite the transaction is the lock
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            from alembic import command
            from alembic.config import Config

            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
            config.attributes["connection"] = connection
            # Does nothing if another process had the lock first: Alembic reads the revision only now.
            command.upgrade(config, "head")

    def _revision(self, connection: sa.Connection) -> str | None:
        if not sa.inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
        if found is not None and found > REVISION:
            raise InfrastructureError(
                f"the database {self} was made by a newer farm (schema {found}; this one knows {REVISION} and older). "
                "Install that farm (pip install -U determinism-farm), or set FARM_DATABASE_URL to another database."
            )
        return None if found is None else str(found)


def _remedy(reason: str) -> str:
    if "no such table" in reason or "does not exist" in reason:
        return "Is it a farm's database? See FARM_DATABASE_URL."
    if "full" in reason or "No space" in reason:
        return "Free some space, or set FARM_DATABASE_URL to another place."
    if "locked" in reason:
        return "Another process is holding it: end that one, or set FARM_DATABASE_URL to another database."
    return "Check that it is reachable and writable, or set FARM_DATABASE_URL to another database."


def _chosen_url(given: str | None) -> sa.URL:
    text = given or os.environ.get("FARM_DATABASE_URL")
    if not text:
        folder = data_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_failure(error, folder, "FARM_DATABASE_URL") from error
        return sa.URL.create("sqlite", database=str(folder / "farm.db"))
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError) as error:  # the text may hold a password, so it isn't repeated
        raise UsageError(f"the database URL can't be read; it has to look like {_EXAMPLES}") from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UsageError(f"a database of kind {url.drivername!r} can't be used: give {_EXAMPLES}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UsageError(f"an SQLite database in memory would forget every run: give a file, as in {_EXAMPLES}")
    return url


def _engine(url: sa.URL, wait_s: int) -> sa.Engine:
    sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"timeout": wait_s} if sqlite else {"connect_timeout": wait_s}
    try:
        engine = sa.create_engine(url, connect_args=arguments)
    except exc.NoSuchModuleError as error:
        raise UsageError(f"the database driver {url.drivername!r} is unknown: give {_EXAMPLES}") from error
    except ModuleNotFoundError as error:
        hint = "pip install 'determinism-farm[postgres]'" if error.name == "psycopg" else f"pip install {error.name}"
        raise UsageError(f"{url.drivername} needs the Python package {error.name}: {hint}") from error
    if sqlite:
        event.listen(engine, "connect", lambda connection, _record: _set_up_sqlite(connection, wait_s))
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, wait_s: int) -> None:
    connection.isolation_level = None  # the sqlite3 module would begin transactions late, and only some
    connection.execute("PRAGMA foreign_keys = ON")
    deadline = time.monotonic() + wait_s
    while True:  # two processes that switch a new file at once get 'locked' at once, whatever the timeout says
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes the lock first: one that read before it writes can't wait for another, it fails at once.
    connection.exec_driver_sql(connection.get_execution_options().get("farm_begin", "BEGIN"))

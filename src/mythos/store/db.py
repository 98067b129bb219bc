"""The database: SQLite in WAL mode, opened at the newest schema, written by one transaction at a time.

`synchronous` is FULL: in WAL mode NORMAL may forget the last commits when the power goes, and a key that was
acknowledged as revoked, or a decision as logged, must not come back to life or vanish.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from mythos.records.errors import MythosError
from mythos.store.home import Home

HEAD = "0003"  # the newest migration; a test compares it with the migrations directory
BUSY_SECONDS = 15.0

_GLANCE = "SELECT value, (SELECT time FROM ledger ORDER BY seq DESC LIMIT 1) FROM generation"
_migrating = threading.Lock()  # alembic keeps its context in a module global


class StoreError(MythosError):
    """The database cannot be read or written."""


class Store:
    """The one database of a home. Methods and the functions beside it may be called from several threads."""

    def __init__(self, home: Home, engine: sa.Engine) -> None:
        self.home = home
        self.engine = engine

    @staticmethod
    def open(home: Home) -> "Store":
        """Open (make, when missing; migrate, when old) the database of `home`. StoreError when that fails."""
        with contextlib.suppress(FileExistsError):  # SQLite gives its side files the mode of the main one
            os.close(os.open(home.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if home.database.stat().st_mode & 0o077:
            home.database.chmod(0o600)
        store = Store(home, _engine(home))
        try:
            # One process at a time: the switch to WAL at a database's first opening does not wait for others,
            # it fails. The kernel drops the lock of a process that is killed.
            with open(os.open(home.lock_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with store.read() as conn:
                    current = _version(conn)
                if current != HEAD:
                    store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One write transaction: all of it is on disk when the block ends, or none of it ever happened.

        Writers wait for each other at the start of the block (`BEGIN IMMEDIATE`), so what a block reads is
        what it writes upon. Keep it short, and never open a second one inside.
        """
        with _readable(self.home), self.engine.connect() as conn:
            conn = conn.execution_options(mythos_write=True)
            with conn.begin():
                yield conn

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One read transaction: everything in the block sees the same moment."""
        with _readable(self.home), self.engine.connect() as conn, conn.begin():
            yield conn

    def glance(self) -> tuple[int, float]:
        """The generation, which rises with every change to keys, weights, decisions or records, by whichever
        process, and the time of the newest ledger event, 0.0 without one.

        One statement, and by the driver itself: every request asks several times.
        """
        with _readable(self.home):
            try:
                with contextlib.closing(self.engine.raw_connection()) as conn:
                    value, newest = conn.cursor().execute(_GLANCE).fetchone()
            except sqlite3.DatabaseError as error:
                raise exc.DatabaseError(_GLANCE, None, error) from error
        return value, newest or 0.0

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _migrate(self) -> None:
        from mythos.store.migrate import upgrade  # alembic takes longer to import than all else here

        with _migrating, self.begin() as conn:
            found = _version(conn)
            if found is not None and found > HEAD:
                raise StoreError(
                    f"{self.home.database} was written by a newer version of mythos (schema {found})",
                    "Upgrade mythos, or set MYTHOS_HOME to another directory.",
                )
            upgrade(conn)


def _engine(home: Home) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(home.database)),
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
    )

    # The driver would open transactions by its own rules, late and only for some statements. With
    # isolation_level None it opens none, and `_begin` opens exactly the kind that was asked for.
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(conn: sa.Connection) -> None:
        write = conn.get_execution_options().get("mythos_write", False)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _version(conn: sa.Connection) -> str | None:
    found = conn.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first()
    return None if found is None else conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


@contextlib.contextmanager
def _readable(home: Home) -> Iterator[None]:
    """Name the cure of what can go wrong with the file itself; faults of our own statements pass through."""
    try:
        yield
    except exc.DatabaseError as error:
        text = str(error.orig).lower()
        cures = {
            "locked": "Another mythos process is writing; try again, or stop it.",
            "full": f"Make space on the disk of {home.path}.",
            "readonly": f"Make {home.database} writable for you.",
            "unable to open": f"Check that {home.path} exists and is yours.",
            "malformed": f"Restore {home.database} from a backup.",
            "not a database": f"Restore {home.database} from a backup, or move it away.",
            "disk i/o": f"Check the disk of {home.path}.",
        }
        for sign, cure in cures.items():
            if sign in text:
                raise StoreError(f"the database {home.database}: {error.orig}", cure) from error
        raise

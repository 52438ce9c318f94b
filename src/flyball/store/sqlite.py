"""The store in one SQLite file: opened safely, migrated, and written in transactions that are on disk.

WAL lets readers go on while a writer works; synchronous=FULL makes COMMIT wait for the disk, so what was acknowledged
survives kill -9 and power loss. The price is about 4 ms a commit: write attempts in batches. One connection under one
lock serves every thread of a process; other processes open their own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flyball.errors import StoreError
from flyball.store import failures
from flyball.store.database import Database, Parameters, Row, Transaction
from flyball.store.schema import Lifted, Refusal

APPLICATION_ID = 0x464C5942
"""`FLYB` in the file header, so that another program's database is never migrated."""


class SqliteDatabase(Database):
    """A connection to the database at `path`, made if absent.

    Raises StoreError when it cannot be opened or written, is damaged, belongs to another program, or was written by a
    newer flyball.
    """

    def __init__(self, path: Path, *, busy_seconds: float = failures.BUSY_SECONDS) -> None:
        self.path = path
        self.name = str(path)
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failures.from_os(path.parent, error) from error
        try:
            self._connection = sqlite3.connect(path, busy_seconds, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise failures.from_sqlite(path, error) from error
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; a second close does nothing."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """See Database."""
        with self._lock, self._translated():
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return every row of a query. Raises StoreError."""
        with self._lock, self._translated():
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise failures.from_sqlite(self.path, error) from error

    def _prepare(self) -> None:
        self._connection.row_factory = sqlite3.Row
        owner = self.rows("PRAGMA application_id")[0][0]
        if owner != APPLICATION_ID and self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise StoreError(f"{self.path} is a SQLite database of another program; choose another store folder")
        mode = self.rows("PRAGMA journal_mode = WAL")[0][0]
        if mode != "wal":
            raise StoreError(
                f"{self.path} is on a file system without shared memory (journal mode {mode!r}, WAL is needed). "
                "Put the store on a local disk"
            )
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON"):
            self.rows(f"PRAGMA {pragma}")
        self._migrate()

    def _has_table(self, table: str) -> bool:
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)))

    def _ddl(self, statement: str | Refusal | Lifted) -> Iterable[str]:
        if isinstance(statement, str):
            yield statement
            if "CREATE TABLE migrations" in statement:  # of the same transaction that makes the file ours
                yield f"PRAGMA application_id = {APPLICATION_ID}"
        elif isinstance(statement, Lifted):
            yield f"DROP TRIGGER {statement.name}"
        else:
            old = "WHEN OLD.at >= (SELECT coalesce(max(before), -1e300) FROM expirations) " if statement.expires else ""
            yield (
                f"CREATE TRIGGER {statement.name} BEFORE {statement.action} ON {statement.table} {old}"
                f"BEGIN SELECT RAISE(ABORT, '{statement.says}'); END"
            )

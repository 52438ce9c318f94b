"""One SQLite file: opened safely, migrated, and written in transactions that are on disk before they return.

WAL lets readers go on while a writer works; synchronous=FULL makes COMMIT wait for the disk, so what was acknowledged
survives kill -9 and power loss. The price is about 4 ms a commit: write attempts in batches. One connection under one
lock serves every thread of a process; other processes open their own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flyball.errors import StoreError
from flyball.store import failures, records
from flyball.store.schema import MIGRATIONS

APPLICATION_ID = 0x464C5942
"""`FLYB` in the file header, so that another program's database is never migrated."""


class Database:
    """A connection to the database at `path`, made if absent.

    Raises StoreError when it cannot be opened or written, is damaged, belongs to another program, or was written by a
    newer flyball.
    """

    def __init__(self, path: Path, *, busy_seconds: float = failures.BUSY_SECONDS) -> None:
        self.path = path
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
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on disk when the block ends, undone when it raises. Raises StoreError.

        Inside another block of this thread it is a part of that one's transaction.
        """
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

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """Return every row of a query. Raises StoreError."""
        with self._lock, self._translated():
            return self._connection.execute(sql, parameters).fetchall()

    def record(self, body: bytes | str, what: str) -> Any:
        """Read a record found in a row; `what` names the row if it is damaged. Raises StoreError."""
        try:
            return records.from_json(body) if isinstance(body, str) else records.unpack(body)
        except StoreError as error:
            raise StoreError(f"{self.path}, {what}: {error.args[0]}") from error

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

    def _migrate(self) -> None:
        """Bring an older schema up to date, all or nothing; two processes may try at once."""
        if self._version() < len(MIGRATIONS):
            with self.write() as db:
                for name, statements in MIGRATIONS[self._version() :]:
                    for statement in statements:
                        db.execute(statement)
                    db.execute("INSERT INTO migrations (name, at) VALUES (?, ?)", (name, now()))
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if (version := self._version()) > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} has schema version {version}, this flyball knows {len(MIGRATIONS)}; it was written by a "
                "newer one. Upgrade flyball, or choose another store folder"
            )

    def _version(self) -> int:
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'migrations'"):
            return 0
        return int(self.rows("SELECT max(version) FROM migrations")[0][0])


def now() -> str:
    """The time in UTC, as written in every row."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")

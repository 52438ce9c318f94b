"""What the tables need of a database: transactions that are on disk before they return, rows, and migrations.

`sqlite.py` keeps one file and needs no server; `postgres.py` serves several machines. The tables are written once, in
SQLite's SQL with its three kinds of parameters (`?`, `?1`, `:name`); each database turns what differs into its own.
Reads inside a `write` block see what it wrote. One writer at a time, so what a block has read still holds when it
writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Protocol

from flyball.errors import StoreError
from flyball.store import records
from flyball.store.schema import MIGRATIONS, Lifted, Refusal

Parameters = Sequence[Any] | Mapping[str, Any]


class Row(Protocol):
    """One row: columns by name or by number, or all of them in order."""

    def __getitem__(self, key: str | int, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def keys(self) -> Iterable[str]: ...


class Count(Protocol):
    """How many rows were written."""

    @property
    def rowcount(self) -> int: ...


class Result(Count, Protocol):
    """What a statement gave."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Transaction(Protocol):
    """The inside of a `write` block."""

    def execute(self, sql: str, parameters: Parameters = (), /) -> Result: ...
    def executemany(self, sql: str, rows: Sequence[Sequence[Any]], /) -> Count: ...


class Database(ABC):
    """A migrated database. `name` is the path or the address, without a password, for messages."""

    name: str

    @abstractmethod
    def write(self) -> AbstractContextManager[Transaction]:
        """One transaction: on disk when the block ends, undone when it raises. Raises StoreError.

        Inside another block of this thread it is a part of that one's transaction.
        """

    @abstractmethod
    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return every row of a query. Raises StoreError."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; a second close does nothing."""

    @abstractmethod
    def _has_table(self, table: str) -> bool: ...

    @abstractmethod
    def _ddl(self, statement: str | Refusal | Lifted) -> Iterable[str]:
        """Return a statement of the schema as this database says it."""

    def record(self, body: bytes | str, what: str) -> Any:
        """Read a record found in a row; `what` names the row if it is damaged. Raises StoreError."""
        try:
            return records.from_json(body) if isinstance(body, str) else records.unpack(body)
        except StoreError as error:
            raise StoreError(f"{self.name}, {what}: {error.args[0]}") from error

    def _migrate(self) -> None:
        """Bring an older schema up to date, all or nothing; two processes may try at once."""
        if self._version() < len(MIGRATIONS):
            with self.write() as db:
                for name, statements in MIGRATIONS[self._version() :]:
                    for statement in statements:
                        for sql in self._ddl(statement):
                            db.execute(sql)
                    db.execute("INSERT INTO migrations (name, at) VALUES (?, ?)", (name, now()))
        if (version := self._version()) > len(MIGRATIONS):
            raise StoreError(
                f"{self.name} has schema version {version}, this flyball knows {len(MIGRATIONS)}; it was written by a "
                "newer one. Upgrade flyball, or choose another store"
            )

    def _version(self) -> int:
        if not self._has_table("migrations"):
            return 0
        return int(self.rows("SELECT max(version) FROM migrations")[0][0])


def now() -> str:
    """The time in UTC, as written in every row."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")

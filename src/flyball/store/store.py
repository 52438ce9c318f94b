"""The store: one folder that holds everything that happened.

    root/flyball.db    SQLite: runs, events, metrics, attempts, judgements, evaluations, versions, releases, routing
                       tables, sessions, approvals, what was served, audit log
    root/running/      a file for each run, held locked by the process that does it
    root/audit.key     the key that signs the audit log
    root/spool/        what gateways accepted, until it is in the database
    root/artifacts/    files by their content: weights, tokenizers, exported states, reports

Each parent class owns the tables of one subject and documents its methods. What a method has written is on disk when
it returns (invariant 10), and facts are added, never changed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from flyball.store.artifacts import Artifacts
from flyball.store.attempts import AttemptTables
from flyball.store.database import Database
from flyball.store.ingest import IngestTables
from flyball.store.routing import RoutingRows
from flyball.store.served import ServedTables
from flyball.store.sessions import SessionTables
from flyball.store.sqlite import SqliteDatabase


class Store(AttemptTables, SessionTables, ServedTables, IngestTables, RoutingRows):
    """The store in the folder `root`, made if absent. One object serves all threads; other processes open their own.

    With `database`, the address of PostgreSQL (`postgresql://user@host/name`, extra `postgres`), the rows are there and
    the folder holds the artifacts alone. `artifacts` holds files by digest. Every method raises StoreError, with the
    path and the way out, when the disk or the database refuses. Usable as a context manager that closes at the end.
    """

    def __init__(self, root: Path | str, *, database: str | None = None) -> None:
        self.root = Path(root)
        self._db = _database(self.root, database)
        self.artifacts = Artifacts(self.root / "artifacts")

    def together(self) -> AbstractContextManager[object]:
        """A block whose writes are one transaction: all on disk when it ends, none when it raises."""
        return self._db.write()

    def close(self) -> None:
        """Close the database; a second close does nothing."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _database(root: Path, address: str | None) -> Database:
    if address is None:
        return SqliteDatabase(root / "flyball.db")
    from flyball.store.postgres import PostgresDatabase  # an extra

    return PostgresDatabase(address)

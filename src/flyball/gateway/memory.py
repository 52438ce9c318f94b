"""What all workers of a machine know of sessions: on which arm each began, what it has spent, what was reported.

One SQLite file beside the spool. It is asked once when a session first meets a worker and, where there are budgets,
once a call; a worker that is started again goes on where the last one stopped. Nothing here is evidence, so a commit
does not wait for the disk: a machine that loses power may lose the last of it.

A file that cannot be read or written stops nobody: the worker then goes by what it saw itself, says so in the log
(`memory`) and in `/healthz`, and asks the file again at the next session.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flyball.gateway.log import note

T = TypeVar("T")
KEPT_DAYS = 30.0
"""Rows that nobody touched for so long are removed when a worker starts."""
BUSY_SECONDS = 0.25
"""How long a worker waits for another one that is writing."""

_TABLES = """
    CREATE TABLE IF NOT EXISTS begun (
        session TEXT, release TEXT, given BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (session, release));
    CREATE TABLE IF NOT EXISTS spent (
        session TEXT PRIMARY KEY, calls REAL NOT NULL, tokens REAL NOT NULL, cost_usd REAL NOT NULL, at REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS reports (
        project TEXT, report TEXT, digest BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (project, report));
"""


class Memory:
    """The file at `path`, made if absent. Every method answers None where the file cannot be used. Safe for threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self.failing = ""
        """why it was not used last time, '' while all is well"""
        self._use(lambda db: [db.execute(f"DELETE FROM {name} WHERE at < ?", (_days_ago(),)) for name in _NAMES])

    def begin(self, session: str, release: str, given: bytes) -> bytes | None:
        """What a session was given when it began under a release: the first word of any worker holds."""

        def first(db: sqlite3.Connection) -> bytes:
            sql = "INSERT INTO begun (session, release, given, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
            db.execute(sql, (session, release, given, time.time()))
            row = db.execute("SELECT given FROM begun WHERE session = ? AND release = ?", (session, release)).fetchone()
            return bytes(row[0])

        return self._use(first)

    def spend(self, session: str, *, calls: float = 0, tokens: float = 0, cost_usd: float = 0) -> list[float] | None:
        """Add to what a session has spent and return calls, tokens and dollars, this included."""

        def add(db: sqlite3.Connection) -> list[float]:
            sql = """INSERT INTO spent (session, calls, tokens, cost_usd, at) VALUES (?1, ?2, ?3, ?4, ?5)
                ON CONFLICT (session) DO UPDATE SET calls = calls + ?2, tokens = tokens + ?3, cost_usd = cost_usd + ?4,
                at = ?5 RETURNING calls, tokens, cost_usd"""
            return list(db.execute(sql, (session, calls, tokens, cost_usd, time.time())).fetchone())

        return self._use(add)

    def reported(self, project: str, report: str) -> bytes | None:
        """The digest of the report that was taken under this id, b"" for none."""

        def find(db: sqlite3.Connection) -> bytes:
            sql = "SELECT digest FROM reports WHERE project = ? AND report = ?"
            row = db.execute(sql, (project, report)).fetchone()
            return bytes(row[0]) if row else b""

        return self._use(find)

    def add_report(self, project: str, report: str, digest: bytes) -> None:
        """Remember a report that is on disk."""
        sql = "INSERT INTO reports (project, report, digest, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        self._use(lambda db: db.execute(sql, (project, report, digest, time.time())))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            try:
                done = work(self._opened())
            except (sqlite3.Error, OSError) as error:
                if not self.failing:
                    note("memory", state="failing", error=type(error).__name__)
                self.failing = f"{self._path}: {error}"[:200]
                return None
            if self.failing:
                note("memory", state="ok")
                self.failing = ""
            return done

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            made = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("PRAGMA synchronous = NORMAL")  # whole after a crash, and no commit waits for the disk
            made.executescript(_TABLES)
            self._connection = made
        return self._connection


_NAMES = ("begun", "spent", "reports")


def _days_ago() -> float:
    return time.time() - 86400 * KEPT_DAYS

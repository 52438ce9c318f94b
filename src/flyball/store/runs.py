"""Runs, the events of their lives and the metrics they write."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from flyball import metrics as declared
from flyball.errors import StoreError, UnknownIdError, nearest
from flyball.store import records, run_lock
from flyball.store.database import Database, now

RunStatus = Literal["running", "finished", "failed", "stopped"]
"""`stopped` = on request (Ctrl-C)."""
INTERRUPTED = "interrupted"
"""What a run that still says `running` reads as when the process that did it is gone: killed, or without power."""


@dataclass(frozen=True)
class Run:
    """One run of a workflow, training, evaluation or re-grading. `config` is what it was started with."""

    run_id: str
    kind: str
    name: str
    config: Mapping[str, Any]
    status: RunStatus | Literal["interrupted"]
    reason: str
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class Event:
    """Something that happened in a run: a checkpoint, an alarm, a change of status."""

    run_id: str
    kind: str
    payload: Any
    at: str


class RunTables:
    """The part of `Store` that knows runs, events and metrics."""

    root: Path
    _db: Database

    def new_run(self, kind: str, config: Mapping[str, Any], name: str | None = None) -> str:
        """Begin a run and return its id, `<UTC time>-<kind>-<random>`, which sorts by time.

        `config` may hold JSON values and the types of `flyball.types`. `name` is for people; default: the kind.
        """
        text = records.to_json(dict(config))
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}-{secrets.token_hex(3)}"
        with self._db.write() as db:
            at = now()
            db.execute(
                """INSERT INTO runs (run_id, kind, name, config, status, reason, created_at, updated_at)
                VALUES (?, ?, ?, ?, 'running', '', ?, ?)""",
                (run_id, kind, name or kind, text, at, at),
            )
        return run_id

    def run(self, run_id: str) -> Run:
        """Return one run by its id, or by a beginning of it that no other run shares. Raises StoreError."""
        rows = self._db.rows("SELECT * FROM runs WHERE substr(run_id, 1, length(?1)) = ?1", (run_id,))
        exact = [row for row in rows if row["run_id"] == run_id] or rows
        if len(exact) != 1:
            known = [row[0] for row in self._db.rows("SELECT run_id FROM runs")]
            count = "no run" if not exact else f"{len(exact)} runs"
            raise UnknownIdError(f"{self._db.name} has {count} {run_id!r}{nearest(run_id, known)}")
        return self._run(exact[0])

    def runs(self, kind: str | None = None) -> list[Run]:
        """Return all runs, or those of one kind, the newest first."""
        sql = "SELECT * FROM runs WHERE ?1 IS NULL OR kind = ?1 ORDER BY created_at DESC, rowid DESC"
        return [self._run(row) for row in self._db.rows(sql, (kind,))]

    def doing(self, run_id: str) -> AbstractContextManager[None]:
        """A block in which this process does a run. Raises StoreError where another process does it."""
        return run_lock.held(self._lock_of(run_id))

    def set_run_status(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        """Change the status of a run and note the change as an event of kind `status`. Raises StoreError."""
        if status not in get_args(RunStatus):
            raise StoreError(f"run status {status!r} is not one{nearest(status, get_args(RunStatus))}")
        payload = records.to_json({"status": status, "reason": reason})
        with self._db.write() as db:
            self._require_run(run_id)
            at = now()
            db.execute(
                "UPDATE runs SET status = ?, reason = ?, updated_at = ? WHERE run_id = ?", (status, reason, at, run_id)
            )
            db.execute(
                "INSERT INTO events (run_id, kind, payload, at) VALUES (?, 'status', ?, ?)", (run_id, payload, at)
            )

    def add_event(self, run_id: str, kind: str, payload: Any = None) -> None:
        """Note that something happened. `payload`: JSON values and the types of `flyball.types`. Raises StoreError."""
        text = records.to_json(payload)
        with self._db.write() as db:
            self._require_run(run_id)
            db.execute(
                "INSERT INTO events (run_id, kind, payload, at) VALUES (?, ?, ?, ?)", (run_id, kind, text, now())
            )

    def events(self, run_id: str, kind: str | None = None) -> list[Event]:
        """Return the events of a run, or those of one kind, in the order they happened."""
        sql = "SELECT * FROM events WHERE run_id = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY seq"
        return [
            Event(run_id, row["kind"], self._db.record(row["payload"], f"event {row['seq']}"), row["at"])
            for row in self._db.rows(sql, (run_id, kind))
        ]

    def add_metrics(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Write the values of one step. NaN and infinity are kept: they are how instability shows.

        Raises ConfigError for a name that `flyball.metrics` does not declare, StoreError when it cannot be written.
        """
        for name in values:
            declared.check(name)
        at = now()
        # SQLite stores NaN as NULL, and `metrics` turns it back.
        rows = [(run_id, step, name, float(value), at) for name, value in values.items()]
        with self._db.write() as db:
            self._require_run(run_id)
            db.executemany("INSERT INTO metrics (run_id, step, name, value, at) VALUES (?, ?, ?, ?, ?)", rows)

    def metrics(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Return the curve of each metric as (step, value), by step.

        A step written again (a run resumed from an earlier checkpoint) shows its latest value.
        """
        sql = "SELECT name, step, value FROM metrics WHERE run_id = ? ORDER BY seq"
        curves: dict[str, dict[int, float]] = {}
        for name, step, value in self._db.rows(sql, (run_id,)):
            curves.setdefault(name, {})[step] = math.nan if value is None else value
        return {name: sorted(curve.items()) for name, curve in curves.items()}

    def _require_run(self, run_id: str) -> None:
        if not self._db.rows("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)):
            raise UnknownIdError(f"{self._db.name} has no run {run_id!r}; begin one with new_run")

    def _lock_of(self, run_id: str) -> Path:
        return self.root / "running" / run_id

    def _run(self, row: Any) -> Run:
        run_id, status, reason = row["run_id"], row["status"], row["reason"]
        if status == "running" and run_lock.is_abandoned(self._lock_of(run_id)):
            status, reason = INTERRUPTED, "the process that did it is gone"
        config = self._db.record(row["config"], f"run {run_id}")
        return Run(run_id, row["kind"], row["name"], config, status, reason, row["created_at"], row["updated_at"])

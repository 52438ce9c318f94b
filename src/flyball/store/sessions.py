"""Session records: the minimum schema of every served or evaluated session, one column per field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from flyball.errors import StoreError
from flyball.store import records
from flyball.store.database import Row, now
from flyball.store.runs import RunTables
from flyball.types import Channel, SessionRecord

_FIELDS = tuple(field.name for field in dataclasses.fields(SessionRecord))


class SessionTables(RunTables):
    """The part of `Store` that knows sessions."""

    def add_sessions(self, run_id: str, sessions: Iterable[SessionRecord]) -> None:
        """Write session records in one transaction; the same record again changes nothing.

        Raises StoreError when the run is unknown or already has another record with the same `session_id`.
        """
        rows = [_row(session) for session in sessions]
        marks = ", ".join("?" * (len(_FIELDS) + 2))
        insert = f"INSERT INTO sessions (run_id, {', '.join(_FIELDS)}, at) VALUES ({marks})"
        known = f"SELECT {', '.join(_FIELDS)} FROM sessions WHERE run_id = ? AND session_id = ?"
        with self._db.write() as db:
            self._require_run(run_id)
            for row in rows:
                earlier = db.execute(known, (run_id, row[0])).fetchone()
                if earlier is None:
                    db.execute(insert, (run_id, *row, now()))
                elif tuple(earlier) != row:
                    raise StoreError(
                        f"session {row[0]} of run {run_id} is already written and this record differs; records never "
                        "change. Give every session of a run its own id"
                    )

    def sessions(
        self, run_id: str | None = None, *, policy_version: str | None = None, channel: Channel | None = None
    ) -> list[SessionRecord]:
        """Return the records of a run, a policy version and a release channel (None = any), the oldest first."""
        sql = """SELECT * FROM sessions WHERE (?1 IS NULL OR run_id = ?1) AND (?2 IS NULL OR policy_version = ?2)
            AND (?3 IS NULL OR release_channel = ?3) ORDER BY seq"""
        return [self._session(row) for row in self._db.rows(sql, (run_id, policy_version, channel))]

    def _session(self, row: Row) -> SessionRecord:
        values = {name: row[name] for name in _FIELDS}
        values["human_override"] = bool(row["human_override"])
        values["outcome"] = None if row["outcome"] is None else bool(row["outcome"])
        values["context"] = self._db.record(row["context"], f"session {row['session_id']}")
        return SessionRecord(**values)


def _row(session: SessionRecord) -> tuple[object, ...]:
    """Values in the order of the fields; `session_id` is the first."""
    values = {name: getattr(session, name) for name in _FIELDS}
    return tuple((values | {"context": records.to_json(session.context)}).values())

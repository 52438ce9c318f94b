"""From the spools into the tables: every frame exactly once, whatever is killed in between.

A batch of frames and the place behind it are written in one transaction, so a crash repeats a batch or does not, and
never half of it. Rows are inserted or ignored by what they are about (a call, a report), so a report that was sent
twice, to two gateways too, is one row; another report under the same id goes to quarantine, as does a frame that
cannot be read.

Whenever a spool tells what it accepted and what it lost, the difference to what was found is written beside it:
`found` = stored + repeated + quarantined, and accepted - declared - found is what is missing and nobody told.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from flyball.errors import StoreError
from flyball.store.bodies import put_bodies
from flyball.store.database import Database, Transaction, now
from flyball.store.frames import Frame
from flyball.store.serving_frames import CallFrame, CounterFrame, FeedbackFrame, RequestFrame, SessionFrame
from flyball.store.spool import Place, SpoolReader

_MODELS: Mapping[str, type[BaseModel]] = {
    "request": RequestFrame,
    "response": RequestFrame,
    "call": CallFrame,
    "session": SessionFrame,
    "feedback": FeedbackFrame,
    "counter": CounterFrame,
}


@dataclass(frozen=True)
class _Table:
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def insert(self) -> str:
        marks = ", ".join("?" * len(self.columns))
        columns, key = ", ".join(self.columns), ", ".join(self.key)
        return f"INSERT INTO {self.name} ({columns}) VALUES ({marks}) ON CONFLICT ({key}) DO NOTHING"


_NAMES = ("project", "call_id", "session", "arm", "version_id", "release_id", "at")
_LAST = ("facts", "frame")
_REQUESTS = _Table("served_requests", ("project", "call_id", "kind"), (*_NAMES, "kind", *_LAST))
_NUMBERS = ("status", "problem", "model", "tokens_in", "tokens_out", "cost_usd", "seconds")
_LINKS = ("parent", "continues", "stands_at", "ends")
_CALLS = _Table(
    "served_calls",
    ("project", "call_id"),
    (*_NAMES, "agent", "exactness", *_LINKS, *_NUMBERS, "body", "tools", *_LAST),
)
_SUMS = ("calls", "tokens_in", "tokens_out", "tool_calls_count", "tool_error_count", "duration_ms", "cost_usd")
_SESSIONS = _Table(
    "served_sessions",
    ("project", "session", "first_call"),
    ("project", "session", "first_call", "arm", "version_id", "release_id", "release_channel", "at", *_SUMS, *_LAST),
)
_FEEDBACK = _Table(
    "feedback",
    ("project", "report_id"),
    ("project", "report_id", "session", "call_id", "at", "outcome", "score", "override", "kpi", "context", *_LAST),
)
_TABLES = {
    "request": _REQUESTS,
    "response": _REQUESTS,
    "call": _CALLS,
    "session": _SESSIONS,
    "feedback": _FEEDBACK,
}


@dataclass
class Ingested:
    """What became of the frames that one call of `ingest` read."""

    stored: int = 0
    repeated: int = 0
    quarantined: int = 0
    counters: int = 0


@dataclass(frozen=True)
class Reconciliation:
    """What a spool told beside what was found, for one kind and arm since the spool was opened as `life`."""

    spool: str
    life: int
    kind: str
    arm: str
    accepted: int
    declared: int
    found: int
    at: str

    @property
    def missing(self) -> int:
        """Frames that are neither there nor declared lost."""
        return self.accepted - self.declared - self.found


@dataclass
class _Batch:
    """Frames between two counters, as rows."""

    rows: dict[tuple[str, str], list[tuple[Any, ...]]] = field(default_factory=dict)
    """(kind, arm) -> rows of the table of that kind"""
    frames: dict[str, Frame] = field(default_factory=dict)
    """digest of a frame -> the frame, for quarantine"""
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    poison: list[tuple[Frame, str]] = field(default_factory=list)


class IngestTables:
    """The part of `Store` that reads spools."""

    _db: Database

    def ingest(self, folder: Path, *, limit_bytes: int = 4 << 20) -> Ingested:
        """Read everything new in the spool at `folder`, remove the segments that are done, and say what it was.

        Raises StoreError; what was committed until then stays, and the next call goes on behind it.
        """
        reader, done = SpoolReader(folder), Ingested()
        spool = reader.identity()
        place = self._place(spool)
        while True:
            frames, behind = reader.read(place, limit_bytes=limit_bytes)
            if behind is not None and behind != place:
                with self._db.write() as db:
                    if self._place(spool) != place:
                        raise StoreError(f"another process reads the spool {folder} too; let one of them read it")
                    _apply(db, spool, behind, frames, done)
                reader.remove_before(behind)
                place = behind
            if not frames:
                return done

    def reconciliations(self, *, missing_only: bool = False) -> list[Reconciliation]:
        """Return what the spools told beside what was found, the oldest first."""
        sql = "SELECT spool, life, kind, arm, accepted, declared, found, at FROM reconciliations ORDER BY seq"
        found = [Reconciliation(*row) for row in self._db.rows(sql)]
        return [one for one in found if one.missing or not missing_only]

    def missing_by_arm(self) -> dict[str, int]:
        """Return how many frames are neither there nor declared lost, by the newest word of every spool."""
        newest = "SELECT max(seq) FROM reconciliations GROUP BY spool, life, kind, arm"
        sql = f"""SELECT arm, sum(accepted - declared - found) FROM reconciliations WHERE seq IN ({newest})
            GROUP BY arm ORDER BY arm"""
        return {row[0]: int(row[1]) for row in self._db.rows(sql)}

    def ingested_counts(self) -> dict[tuple[str, str], dict[str, int]]:
        """Return how many frames were stored, repeated and put into quarantine, by (kind, arm)."""
        names = ("stored", "repeated", "quarantined")
        sums = ", ".join(f"sum({name}) AS {name}" for name in names)
        sql = f"SELECT kind, arm, {sums} FROM ingested GROUP BY kind, arm"
        return {(row["kind"], row["arm"]): {name: int(row[name]) for name in names} for row in self._db.rows(sql)}

    def quarantined(self) -> list[tuple[str, str, bytes]]:
        """Return (kind, reason, body) of the frames that could not become rows, the oldest first."""
        return [tuple(row) for row in self._db.rows("SELECT kind, reason, body FROM quarantine ORDER BY seq")]

    def _place(self, spool: str) -> Place | None:
        rows = self._db.rows("SELECT segment, byte FROM spool_places WHERE spool = ?", (spool,))
        return Place(*rows[0]) if rows else None


def write_feedback(db: Transaction, fact: FeedbackFrame) -> bool:
    """Write one late fact without a spool; False when it is there already. Raises StoreError when its id is taken."""
    frame = Frame("feedback", fact.model_dump_json(exclude_none=True).encode())
    batch = _Batch()
    _add(batch, frame, fact)
    (rows,) = batch.rows.values()
    if db.executemany(_FEEDBACK.insert, rows).rowcount:
        return True
    if _others(db, _FEEDBACK, rows):
        raise StoreError(
            f"report {fact.report_id!r} of project {fact.project!r} is there with other content; facts are added, "
            "never changed: give the correction an id of its own"
        )
    return False


def write_calls(database: Database, calls: Sequence[CallFrame]) -> int:
    """Write calls without a spool, in one transaction, and return how many were new."""
    batch = _Batch()
    for call in calls:
        _add(batch, Frame("call", call.model_dump_json().encode(), at_ms=time.time_ns() // 1_000_000), call)
    with database.write() as db:
        put_bodies(db, batch.bodies, at=_newest(batch))
        return sum(db.executemany(_CALLS.insert, rows).rowcount for rows in batch.rows.values())


def _apply(db: Transaction, spool: str, place: Place, frames: Sequence[Frame], done: Ingested) -> None:
    """Write a batch and the place behind it. A counter is held against everything in front of it."""
    batch = _Batch()
    for frame in frames:
        read = _read(frame)
        if isinstance(read, str):
            batch.poison.append((frame, read))
        elif isinstance(read, CounterFrame):
            _write(db, spool, place.segment, batch, done)
            _reconcile(db, spool, read)
            _count(db, spool, place.segment, "counter", "", stored=1)
            done.counters += 1
            batch = _Batch()
        else:
            _add(batch, frame, read)
    _write(db, spool, place.segment, batch, done)
    db.execute(
        """INSERT INTO spool_places (spool, segment, byte) VALUES (?1, ?2, ?3)
        ON CONFLICT (spool) DO UPDATE SET segment = ?2, byte = ?3""",
        (spool, *place),
    )


def _read(frame: Frame) -> BaseModel | str:
    """Return the frame's content, or why it cannot be read."""
    try:
        return _MODELS[frame.kind].model_validate(orjson.loads(frame.body))
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:  # no JSON
        return str(error)


def _digest(frame: Frame) -> str:
    """What tells two frames under one id apart. Of a report it is what was said, not when or by which key."""
    if frame.kind != "feedback":
        return hashlib.sha256(frame.body).hexdigest()
    said = {name: value for name, value in orjson.loads(frame.body).items() if name not in ("at", "by")}
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _add(batch: _Batch, frame: Frame, read: BaseModel) -> None:
    digest = _digest(frame)
    said = vars(read)
    columns: dict[str, Any] = {
        **said,
        "version_id": said.get("version", ""),
        "release_id": said.get("release_id") or "",
        "arm": said.get("arm") or frame.arm,
        "kind": frame.kind,
        "facts": orjson.dumps(read.model_extra or {}).decode(),
        "frame": digest,
    }
    if isinstance(read, CallFrame):
        parts = {"messages": read.messages, "message": read.message, "tokens": read.tokens}
        columns["body"] = _body(batch, parts if any(part is not None for part in parts.values()) else None)
        columns["tools"] = _body(batch, read.tools)
    elif isinstance(read, FeedbackFrame):
        for name, fact in (("override", read.override), ("kpi", read.kpi), ("context", read.context)):
            columns[name] = None if fact is None else fact.model_dump_json()
    table = _TABLES[frame.kind]
    batch.rows.setdefault((frame.kind, frame.arm), []).append(tuple(columns[name] for name in table.columns))
    batch.frames[digest] = frame


def _body(batch: _Batch, content: Any) -> str | None:
    if content is None:
        return None
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(data).hexdigest()
    batch.bodies.append((digest, data))
    return digest


def _write(db: Transaction, spool: str, segment: int, batch: _Batch, done: Ingested) -> None:
    put_bodies(db, batch.bodies, at=_newest(batch))
    for (kind, arm), rows in batch.rows.items():
        table = _TABLES[kind]
        stored = db.executemany(table.insert, rows).rowcount
        others = _others(db, table, rows) if stored < len(rows) else []
        batch.poison += [(batch.frames[digest], "another fact has this id already") for digest in others]
        repeated = len(rows) - stored - len(others)
        _count(db, spool, segment, kind, arm, stored=stored, repeated=repeated)
        done.stored += stored
        done.repeated += repeated
    for frame, reason in batch.poison:
        sql = "INSERT INTO quarantine (spool, kind, arm, reason, body, at) VALUES (?, ?, ?, ?, ?, ?)"
        db.execute(sql, (spool, frame.kind, frame.arm, reason, frame.body, now()))
        _count(db, spool, segment, frame.kind, frame.arm, quarantined=1)
    done.quarantined += len(batch.poison)


def _newest(batch: _Batch) -> float:
    """Seconds since 1970: what the ages of bodies are counted from."""
    return max((frame.at_ms for frame in batch.frames.values()), default=0) / 1e3


def _others(db: Transaction, table: _Table, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Digests of frames whose id is taken by a frame with other content."""
    where = " AND ".join(f"{name} = ?" for name in table.key)
    places = [table.columns.index(name) for name in table.key]
    others = []
    for row in rows:
        known = db.execute(f"SELECT frame FROM {table.name} WHERE {where}", [row[i] for i in places]).fetchone()
        if known["frame"] != row[-1]:
            others.append(row[-1])
    return others


def _count(
    db: Transaction,
    spool: str,
    segment: int,
    kind: str,
    arm: str,
    *,
    stored: int = 0,
    repeated: int = 0,
    quarantined: int = 0,
) -> None:
    db.execute(
        """INSERT INTO ingested (spool, segment, kind, arm, stored, repeated, quarantined)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (spool, segment, kind, arm) DO UPDATE SET
        stored = ingested.stored + ?5, repeated = ingested.repeated + ?6, quarantined = ingested.quarantined + ?7""",
        (spool, segment, kind, arm, stored, repeated, quarantined),
    )


def _reconcile(db: Transaction, spool: str, told: CounterFrame) -> None:
    sql = """SELECT kind, arm, sum(stored + repeated + quarantined) FROM ingested
        WHERE spool = ? AND segment >= ? GROUP BY kind, arm"""
    found = {(kind, arm): int(number) for kind, arm, number in db.execute(sql, (spool, told.life)).fetchall()}
    lost: Counter[tuple[str, str]] = Counter()
    for kind, arm, _, number in told.lost:
        lost[kind, arm] += number
    rows = [
        (spool, told.life, kind, arm, accepted, lost[kind, arm], found.get((kind, arm), 0), now())
        for kind, arm, accepted in told.accepted
    ]
    sql = """INSERT INTO reconciliations (spool, life, kind, arm, accepted, declared, found, at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
    db.executemany(sql, rows)

"""Bodies: what was said, apart from the facts about it, so that it can be erased while the facts stay.

A body is named by the sha256 of its content and kept once, compressed (zstandard). Rows and the audit trail hold the
digest alone: erasing a body leaves a tombstone with that digest, so what verifies the digests verifies as before. A
digest proves a guess right, so a body that could be guessed is no secret after its erasure.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import zstandard

from flyball.errors import StoreError, nearest
from flyball.store.database import Database, Transaction, now

Retention = Literal["body", "evidence"]
"""`body`: for as long as bodies are kept. `evidence`: what a decision rests on, kept longer."""

DAYS: Mapping[Retention, float] = {"body": 30.0, "evidence": 3652.0}


@dataclass(frozen=True)
class Tombstone:
    """What is left of an erased body."""

    digest: str
    actor: str
    reason: str
    at: str


class BodyTables:
    """The part of `Store` that knows bodies."""

    _db: Database

    def body(self, digest: str) -> bytes:
        """Return a body, verified. Raises StoreError for one that was erased (with who and why), absent or damaged."""
        rows = self._db.rows("SELECT data FROM bodies WHERE digest = ?", (digest,))
        if not rows:
            if stones := self.tombstones(digest):
                stone = stones[-1]
                raise StoreError(f"body {digest} was erased by {stone.actor} at {stone.at}: {stone.reason}")
            raise StoreError(f"{self._db.name} has no body {digest!r}")
        try:
            content = zstandard.decompress(rows[0]["data"])
        except zstandard.ZstdError as error:
            raise StoreError(f"{self._db.name}, body {digest}: damaged ({error}); restore it from a copy") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(f"{self._db.name}, body {digest}: its content has another digest; restore it from a copy")
        return content

    def hold_bodies(self, digests: Iterable[str], retention: Retention, actor: str, reason: str) -> None:
        """Keep bodies as long as `retention` says, whatever their age. Raises StoreError for an unknown class."""
        if retention not in get_args(Retention):
            raise StoreError(f"retention {retention!r} is not one{nearest(retention, get_args(Retention))}")
        rows = [(digest, retention, actor, reason, now()) for digest in digests]
        with self._db.write() as db:
            sql = "INSERT INTO body_holds (digest, retention, actor, reason, at) VALUES (?, ?, ?, ?, ?)"
            db.executemany(sql, rows)

    def erase_bodies(self, digests: Iterable[str], actor: str, reason: str) -> int:
        """Erase bodies, those held as evidence too, and return how many were there; each leaves a tombstone."""
        if not reason:
            raise StoreError("an erasure needs a reason: it stands in the tombstone")
        with self._db.write() as db:
            return _erase(db, list(dict.fromkeys(digests)), actor, reason)

    def expire_bodies(self, days: Mapping[Retention, float] = DAYS, *, at: float | None = None) -> int:
        """Erase what is older than its class allows and return how many. `at`: seconds since 1970, default now."""
        today = time.time() if at is None else at
        held = "SELECT digest FROM body_holds WHERE retention = 'evidence'"
        sql = f"""SELECT digest FROM bodies WHERE (at < ?1 AND digest NOT IN ({held}))
            OR (at < ?2 AND digest IN ({held}))"""
        bounds = (today - 86400 * days["body"], today - 86400 * days["evidence"])
        with self._db.write() as db:
            old = [row["digest"] for row in db.execute(sql, bounds).fetchall()]
            return _erase(db, old, "retention", f"older than {days['body']:g} days ({days['evidence']:g} as evidence)")

    def tombstones(self, digest: str | None = None) -> list[Tombstone]:
        """Return what is left of erased bodies, the oldest first."""
        sql = "SELECT digest, actor, reason, at FROM tombstones WHERE ?1 IS NULL OR digest = ?1 ORDER BY seq"
        return [Tombstone(*row) for row in self._db.rows(sql, (digest,))]


def put_bodies(db: Transaction, contents: Sequence[tuple[str, bytes]], at: float) -> None:
    """Write (digest, content) pairs inside a transaction; what is there already is not written again."""
    press = zstandard.ZstdCompressor(level=3)
    rows = [(digest, len(content), press.compress(content), at) for digest, content in dict(contents).items()]
    if rows:
        sql = "INSERT INTO bodies (digest, size, data, at) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING"
        db.executemany(sql, rows)


def _erase(db: Transaction, digests: Sequence[str], actor: str, reason: str) -> int:
    gone = [digest for digest in digests if db.execute("DELETE FROM bodies WHERE digest = ?", (digest,)).rowcount]
    if gone:
        rows = [(digest, actor, reason, now()) for digest in gone]
        db.executemany("INSERT INTO tombstones (digest, actor, reason, at) VALUES (?, ?, ?, ?)", rows)
    return len(gone)

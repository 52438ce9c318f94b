"""Rows that are old enough go: who was served by what, and what was told about it, is personal data too.

The tables are append-only and stay it: a row goes only if an entry of `expirations` allows it, which says before what
time, by whom and how many, and never goes itself. Sessions of which a body is held as evidence stay whole.
"""

from __future__ import annotations

import time

from flyball.errors import StoreError
from flyball.store.database import Database, now
from flyball.store.schema import EXPIRING

ROW_DAYS = 365.0

_OLD = """at < ? AND NOT EXISTS (SELECT 1 FROM served_calls c JOIN body_holds h ON h.digest = c.body
    WHERE c.project = {0}.project AND c.session = {0}.session)"""


class ExpiryTables:
    """The part of `Store` that lets rows go."""

    _db: Database

    def expire_rows(self, days: float = ROW_DAYS, *, actor: str = "retention", at: float | None = None) -> int:
        """Delete what was served longer ago and return how many rows. `at`: seconds since 1970, default now.

        Raises StoreError for a time that is not over.
        """
        if days < 0:
            raise StoreError(f"rows of {days:g} days ago are not there yet; give 0 or more")
        before = (time.time() if at is None else at) - 86400 * days
        with self._db.write() as db:
            where = {table: _OLD.format(table) for table in EXPIRING}
            count = sum(
                int(db.execute(f"SELECT count(*) FROM {table} WHERE {old}", (before,)).fetchone()[0])
                for table, old in where.items()
            )
            if count:
                sql = "INSERT INTO expirations (before, row_count, actor, at) VALUES (?, ?, ?, ?)"
                db.execute(sql, (before, count, actor, now()))
                for table, old in where.items():
                    db.execute(f"DELETE FROM {table} WHERE {old}", (before,))
        return count

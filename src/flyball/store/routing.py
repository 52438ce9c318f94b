"""Who is served what: every routing table there ever was, numbered without a gap."""

from __future__ import annotations

from dataclasses import dataclass

from flyball.errors import RefusedError
from flyball.store.audit import Act, AuditTables
from flyball.store.database import Row, now


@dataclass(frozen=True)
class StoredRoute:
    """One routing table as `release/` wrote it: `body` is its JSON."""

    version: int
    release_id: str
    body: str
    at: str


class RoutingRows(AuditTables):
    """The part of `Store` that knows routing tables."""

    def add_route(self, version: int, release_id: str, body: str, act: Act) -> None:
        """Write table number `version`, the one after the latest: of two controllers, one wins and the other is told.

        `act` says who changed the routing and why; it becomes an entry of the audit log in the same transaction.

        Raises RefusedError when the number is not the next one.
        """
        with self._db.write() as db:
            latest = db.execute("SELECT max(version) FROM routes").fetchone()[0] or 0
            if version != latest + 1:
                raise RefusedError(
                    f"routing table {version} cannot follow table {latest}: somebody changed the routing first. "
                    "Read the latest table, then decide again"
                )
            sql = "INSERT INTO routes (version, release_id, body, at) VALUES (?, ?, ?, ?)"
            db.execute(sql, (version, release_id, body, now()))
            self.add_act(act)

    def route(self) -> StoredRoute | None:
        """Return the table in force, None before the first."""
        rows = self._db.rows("SELECT * FROM routes ORDER BY version DESC LIMIT 1")
        return _route(rows[0]) if rows else None

    def routes(self, release_id: str) -> list[StoredRoute]:
        """Return every table of a release, the oldest first."""
        return [
            _route(row)
            for row in self._db.rows("SELECT * FROM routes WHERE release_id = ? ORDER BY version", (release_id,))
        ]


def _route(row: Row) -> StoredRoute:
    return StoredRoute(row["version"], row["release_id"], row["body"], row["at"])

"""Evidence and decisions: evaluations, policy versions, releases, and the aliases that say which version serves.

Nothing but `release/` moves a production alias (invariant 8); the store only makes a move atomic and keeps them all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

from flyball.errors import StoreError, UnknownIdError, nearest
from flyball.store import records
from flyball.store.audit import Act, AuditTables
from flyball.store.database import Row, now
from flyball.types import EvalRun, PolicyVersion, Release


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias. `previous` is None for the first."""

    alias: str
    version_id: str
    previous: str | None
    actor: str
    reason: str
    at: str


class RegistryTables(AuditTables):
    """The part of `Store` that knows evaluations, versions, releases and aliases.

    Each state of a release and each move of an alias is an entry of the audit log, written in the same transaction.
    """

    def put_eval(self, run: EvalRun) -> str:
        """Write an evaluation and return its digest; the same one again changes nothing. Raises StoreError."""
        digest, body = records.pack(run)
        row = (digest, run.run_id, run.version_id, run.suite, run.suite_digest, run.grader_version, body, now())
        with self._db.write() as db:
            db.execute(
                """INSERT INTO evals (digest, run_id, version_id, suite, suite_digest, grader_version, body, at)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING""",
                row,
            )
        return digest

    def evals(
        self, version_id: str | None = None, *, run_id: str | None = None, suite: str | None = None
    ) -> list[EvalRun]:
        """Return the evaluations of a version, a run and a suite (None = any), the oldest first."""
        sql = """SELECT digest, body FROM evals WHERE (?1 IS NULL OR version_id = ?1)
            AND (?2 IS NULL OR run_id = ?2) AND (?3 IS NULL OR suite = ?3) ORDER BY seq"""
        rows = self._db.rows(sql, (version_id, run_id, suite))
        return [cast(EvalRun, self._db.record(row["body"], f"evaluation {row['digest']}")) for row in rows]

    def num_judged(self, suite_digest: str) -> int:
        """Return how many versions have been judged on a frozen suite so far."""
        sql = "SELECT COUNT(DISTINCT version_id) FROM evals WHERE suite_digest = ?"
        return int(self._db.rows(sql, (suite_digest,))[0][0])

    def put_version(self, version: PolicyVersion) -> None:
        """Write a policy version; the same one again changes nothing.

        Raises StoreError when the id is taken by a version with other content: versions are immutable.
        """
        _, body = records.pack(version)
        with self._db.write() as db:
            known = db.execute("SELECT body FROM versions WHERE version_id = ?", (version.version_id,)).fetchone()
            if known is None:
                row = (version.version_id, version.name, body, now())
                db.execute("INSERT INTO versions (version_id, name, body, at) VALUES (?, ?, ?, ?)", row)
            elif self._db.record(known["body"], f"version {version.version_id}") != version:
                raise StoreError(
                    f"version {version.version_id} is already in {self._db.name} with other content; a version never "
                    "changes. Derive the id from everything the version binds"
                )

    def version(self, version_id: str) -> PolicyVersion:
        """Return one version by its id, or by a beginning of it that no other shares. Raises UnknownIdError."""
        versions = [version for version in self.versions() if version.version_id.startswith(version_id)]
        found = [version for version in versions if version.version_id == version_id] or versions
        if len(found) != 1:
            known = [name for version in self.versions() for name in (version.name, version.version_id)]
            count = "no version" if not found else f"{len(found)} versions"
            raise UnknownIdError(f"{self._db.name} has {count} {version_id!r}{nearest(version_id, known)}")
        return found[0]

    def versions(self, name: str | None = None) -> list[PolicyVersion]:
        """Return all versions, or those with one name, the oldest first."""
        sql = "SELECT version_id, body FROM versions WHERE ?1 IS NULL OR name = ?1 ORDER BY seq"
        rows = self._db.rows(sql, (name,))
        return [cast(PolicyVersion, self._db.record(row["body"], f"version {row['version_id']}")) for row in rows]

    def put_release(self, release: Release) -> None:
        """Write the present state of a release as a new row; earlier states stay. Raises StoreError."""
        _, body = records.pack(release)
        with self._db.write() as db:
            db.execute(
                "INSERT INTO releases (release_id, stage, body, at) VALUES (?, ?, ?, ?)",
                (release.release_id, release.stage, body, now()),
            )
            gates = {result.name: result.state for result in release.gates}
            detail = {"stage": release.stage, "verdict": release.verdict, "gates": gates}
            detail |= {"baseline": release.baseline, "candidate": release.candidate}
            self.add_act(
                Act(action="release", actor="flyball", at=time.time(), subject=release.release_id, detail=detail)
            )

    def release(self, release_id: str) -> Release:
        """Return the latest state of one release, by its id or a beginning of it that no other shares.

        Raises UnknownIdError.
        """
        releases = [release for release in self.releases() if release.release_id.startswith(release_id)]
        found = [release for release in releases if release.release_id == release_id] or releases
        if len(found) != 1:
            known = [release.release_id for release in self.releases()]
            count = "no release" if not found else f"{len(found)} releases"
            raise UnknownIdError(f"{self._db.name} has {count} {release_id!r}{nearest(release_id, known)}")
        return found[0]

    def release_history(self, release_id: str) -> list[Release]:
        """Return every state of one release, the oldest first."""
        rows = self._db.rows("SELECT * FROM releases WHERE release_id = ? ORDER BY seq", (release_id,))
        return [self._release(row) for row in rows]

    def releases(self) -> list[Release]:
        """Return the latest state of every release, the most recently changed last."""
        latest = "SELECT max(seq) FROM releases GROUP BY release_id"
        return [
            self._release(row) for row in self._db.rows(f"SELECT * FROM releases WHERE seq IN ({latest}) ORDER BY seq")
        ]

    def set_alias(self, alias: str, version_id: str, *, expected: str | None, actor: str, reason: str) -> AliasMove:
        """Point `alias` at a stored version if it still points at `expected` (None = it does not exist yet).

        Raises StoreError when another move came first, or the version is not in the store.
        """
        with self._db.write() as db:
            if not db.execute("SELECT 1 FROM versions WHERE version_id = ?", (version_id,)).fetchone():
                raise UnknownIdError(f"alias {alias!r} cannot point at {version_id!r}: no such version; register it")
            if (current := self.alias(alias)) != expected:
                raise StoreError(
                    f"alias {alias!r} points at {current!r}, not at {expected!r} as expected: somebody moved it first. "
                    "`flyball log show` tells who; then decide again"
                )
            move = AliasMove(alias, version_id, current, actor, reason, now())
            db.execute(
                """INSERT INTO alias_moves (alias, version_id, previous, actor, reason, at)
                VALUES (?, ?, ?, ?, ?, ?)""",
                (alias, version_id, current, actor, reason, move.at),
            )
            detail = {"from": current, "to": version_id}
            self.add_act(Act(action="alias", actor=actor, at=time.time(), subject=alias, reason=reason, detail=detail))
        return move

    def alias(self, alias: str) -> str | None:
        """Return the version id that `alias` points at, or None when it was never set."""
        sql = "SELECT version_id FROM alias_moves WHERE alias = ? ORDER BY seq DESC LIMIT 1"
        rows = self._db.rows(sql, (alias,))
        return rows[0]["version_id"] if rows else None

    def aliases(self) -> dict[str, str]:
        """Return where every alias points."""
        return {row["alias"]: row["version_id"] for row in self._db.rows("SELECT * FROM alias_moves ORDER BY seq")}

    def alias_history(self, alias: str) -> list[AliasMove]:
        """Return every move of `alias`, the oldest first."""
        sql = "SELECT alias, version_id, previous, actor, reason, at FROM alias_moves WHERE alias = ? ORDER BY seq"
        return [AliasMove(*row) for row in self._db.rows(sql, (alias,))]

    def _release(self, row: Row) -> Release:
        return cast(Release, self._db.record(row["body"], f"release {row['release_id']}"))

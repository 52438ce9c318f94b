"""The audit log: every act of a release, in order, signed. It is what a release is decided by and what proves it.

An entry is canonical JSON (RFC 8785) of all its fields, among them the hash of the entry before it. The hashes of the
entries are the leaves of a Merkle tree (`merkle.py`), and with each act, in the same transaction, its root is signed by
the store's key (`signing.py`). So an entry that is dropped, reordered or edited, and a second history under the same
key, can be shown by anybody who has the public key and a copy of one checkpoint: `verifier/flyball_verify.py` does, and
imports nothing of ours.

Who holds the store's key can write another history from the start. Against that only a checkpoint helps that was kept
where the operator cannot reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import rfc8785

from flyball.errors import StoreError
from flyball.store.database import Database, now
from flyball.store.merkle import Tree, leaf_hash
from flyball.store.signing import SigningKey, checkpoint_note

ENTRIES, CHECKPOINTS, PUBLIC_KEY = "entries.jsonl", "checkpoints.jsonl", "log.pub"
"""The files of an exported log."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """Something that was done. `at` is in seconds since 1970 on the clock of who did it.

    `subject`: what it was done to (a release, an alias, an owner's role). `kind` and `authentication` say what `actor`
    is and how that is known. `evidence`: digests (sha256) of what it rests on, by name; the store has the bytes as
    artifacts. `detail`: whatever else the action needs, as JSON.
    """

    action: str
    actor: str
    at: float
    subject: str = ""
    reason: str = ""
    kind: Literal["program", "person"] = "program"
    authentication: Literal["none", "signature"] = "none"
    evidence: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry(Act):
    """An act in its place: `seq` counts from 0, `previous` is the leaf hash of the entry before (hex, "" for the
    first)."""

    seq: int
    previous: str


def canonical(value: Any) -> bytes:
    """RFC 8785 canonical JSON: one text, and so one hash, for one value. Raises StoreError for what JSON cannot say."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise StoreError(f"{str(value)[:120]} has no canonical JSON: {error}") from error


class AuditTables:
    """The part of `Store` that knows the audit log."""

    root: Path
    _db: Database

    @property
    def audit_key(self) -> SigningKey:
        """The key that signs checkpoints: `audit.key` of the store folder, made when the first act is written."""
        path = self.root / "audit.key"
        if path.exists():
            return SigningKey.read(path)
        if self._db.rows("SELECT 1 FROM audit LIMIT 1"):
            raise StoreError(
                f"{path} is gone, and with it the key that signed this log; restore it. Under another key it would be "
                "another log"
            )
        return SigningKey.create(path)

    def add_act(self, act: Act) -> Entry:
        """Append an act and sign the log with it: both on disk, or neither. Raises StoreError."""
        with self._db.write() as db:
            tree = Tree()
            previous = b""
            for row in db.execute("SELECT entry FROM audit ORDER BY seq").fetchall():
                previous = leaf_hash(row["entry"].encode())
                tree.append(previous)
            entry = Entry(**vars(act), seq=tree.size, previous=previous.hex())
            text = canonical(asdict(entry))
            key = self.audit_key
            db.execute(
                "INSERT INTO audit (seq, action, subject, entry, at) VALUES (?, ?, ?, ?, ?)",
                (entry.seq, entry.action, entry.subject, text.decode(), now()),
            )
            tree.append(leaf_hash(text))
            note = checkpoint_note(key, log_origin(key.public), tree.size, tree.root(), act.at)
            db.execute("INSERT INTO audit_checkpoints (size, note) VALUES (?, ?)", (tree.size, note))
        return entry

    def acts(self, action: str | None = None, subject: str | None = None) -> list[Entry]:
        """The entries with this action and subject (None = any), the oldest first."""
        sql = """SELECT entry FROM audit WHERE (?1 IS NULL OR action = ?1) AND (?2 IS NULL OR subject = ?2)
            ORDER BY seq"""
        return [Entry(**orjson.loads(row["entry"])) for row in self._db.rows(sql, (action, subject))]

    def checkpoint(self) -> str:
        """The newest checkpoint, a signed note: keep copies where nobody who can write here can reach. "" for an empty
        log."""
        rows = self._db.rows("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
        return rows[0]["note"] if rows else ""

    def export_audit(self, folder: Path) -> None:
        """Write entries, checkpoints and the public key for the verifier. Raises StoreError."""
        entries = [row["entry"] for row in self._db.rows("SELECT entry FROM audit ORDER BY seq")]
        notes = [row["note"] for row in self._db.rows("SELECT note FROM audit_checkpoints ORDER BY size")]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ENTRIES).write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
            (folder / CHECKPOINTS).write_bytes(b"".join(orjson.dumps(note) + b"\n" for note in notes))
            (folder / PUBLIC_KEY).write_text(f"{self.audit_key.public}\n", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"the audit log was not written to {folder}: {error}") from error


def log_origin(public: str) -> str:
    """The name of the log that a key signs."""
    return f"flyball/{public[:16]}"


def statement(approval: Mapping[str, Any]) -> bytes:
    """What an approver signs: the canonical JSON of the approval without its signature, marked for this purpose."""
    return b"flyball approval v1\n" + canonical(
        {name: value for name, value in approval.items() if name != "signature"}
    )

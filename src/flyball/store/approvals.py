"""Calls that a person is asked about, and what the person said.

A request is a row, its answer another; neither changes. `expired` needs no row: nobody answered by `expires_at`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from flyball.errors import RefusedError, StoreError, UnknownIdError, nearest
from flyball.store.database import Database, Row, now

ApprovalState = Literal["pending", "approved", "denied", "expired"]
_STATES = {"approve": "approved", "deny": "denied"}
_SELECT = """SELECT p.*, a.decision, a.actor, a.reason, a.at AS answered_at
    FROM approvals p LEFT JOIN approval_answers a ON a.approval_id = p.approval_id"""


@dataclass(frozen=True)
class Approval:
    """One call that a person is asked about. Times are UTC, ISO 8601; `actor` and `reason` are of the answer."""

    approval_id: str
    session_id: str
    call_id: str
    tool: str
    arguments: str
    state: ApprovalState
    at: str
    expires_at: str
    actor: str = ""
    reason: str = ""
    answered_at: str = ""


class ApprovalTables:
    """The part of `Store` that knows approvals."""

    _db: Database

    def request_approval(self, session_id: str, call_id: str, tool: str, arguments: str, expires_at: str) -> Approval:
        """Ask about one call of a session. Asked again, after a crash for instance, it is the same request.

        Raises StoreError when the session asked about another call under this `call_id`.
        """
        approval_id = f"ap_{secrets.token_hex(6)}"
        with self._db.write() as db:
            sql = "SELECT * FROM approvals WHERE session_id = ? AND call_id = ?"
            known = db.execute(sql, (session_id, call_id)).fetchone()
            if known is None:
                row = (approval_id, session_id, call_id, tool, arguments, expires_at, now())
                db.execute(
                    """INSERT INTO approvals (approval_id, session_id, call_id, tool, arguments, expires_at, at)
                    VALUES (?, ?, ?, ?, ?, ?, ?)""",
                    row,
                )
            elif (known["tool"], known["arguments"]) != (tool, arguments):
                raise StoreError(
                    f"session {session_id} asked about {known['tool']} {known['arguments']} as call {call_id}, and now "
                    f"about {tool} {arguments}; give every call of a session its own id"
                )
        return self.approval(approval_id if known is None else known["approval_id"])

    def answer_approval(self, approval_id: str, decision: str, actor: str, reason: str = "") -> Approval:
        """Approve or deny a pending request; the first answer stands. Raises RefusedError when it is not pending."""
        if decision not in _STATES:
            raise StoreError(f"decision {decision!r} is not one{nearest(decision, _STATES)}")
        with self._db.write() as db:  # one writer at a time, so what is read here still holds when it is written
            asked = self.approval(approval_id)
            if asked.state != "pending":
                by = f" by {asked.actor} at {asked.answered_at}" if asked.actor else f" at {asked.expires_at}"
                raise RefusedError(f"approval {asked.approval_id} is {asked.state}{by}; only a pending one is answered")
            db.execute(
                "INSERT INTO approval_answers (approval_id, decision, actor, reason, at) VALUES (?, ?, ?, ?, ?)",
                (asked.approval_id, decision, actor, reason, now()),
            )
        return self.approval(asked.approval_id)

    def approval(self, approval_id: str) -> Approval:
        """Return one by its id, or by a beginning of it that no other one shares. Raises StoreError."""
        rows = self._db.rows(f"{_SELECT} WHERE substr(p.approval_id, 1, length(?1)) = ?1", (approval_id,))
        if len(rows) != 1:
            known = [row[0] for row in self._db.rows("SELECT approval_id FROM approvals")]
            count = "no approval" if not rows else f"{len(rows)} approvals"
            raise UnknownIdError(f"{self._db.name} has {count} {approval_id!r}{nearest(approval_id, known)}")
        return _approval(rows[0])

    def approvals(self, state: ApprovalState | None = None) -> list[Approval]:
        """Return all, or those in one state, the oldest first. Raises StoreError for an unknown state."""
        if state is not None and state not in get_args(ApprovalState):
            raise StoreError(f"state {state!r} is not one{nearest(state, get_args(ApprovalState))}")
        found = [_approval(row) for row in self._db.rows(f"{_SELECT} ORDER BY p.seq")]
        return [one for one in found if state is None or one.state == state]


def _approval(row: Row) -> Approval:
    state = _STATES.get(row["decision"] or "")
    if state is None:
        expired = datetime.fromisoformat(row["expires_at"]) <= datetime.now(UTC)
        state = "expired" if expired else "pending"
    names = ("approval_id", "session_id", "call_id", "tool", "arguments", "at", "expires_at")
    answer = {name: row[name] or "" for name in ("actor", "reason", "answered_at")}
    return Approval(**{name: row[name] for name in names}, state=state, **answer)  # type: ignore[arg-type]

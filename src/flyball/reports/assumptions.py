"""One invalidated assumption a day: what everybody took for true until a trace showed otherwise, in the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flyball.errors import EvalError
from flyball.store.audit import Act
from flyball.store.store import Store

ACTION = "assumption_invalidated"
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Assumption:
    """`day` is ISO 8601; `shown_by` a session, or whatever else showed it."""

    day: str
    text: str
    shown_by: str
    by: str


def day_of(at: float) -> str:
    """The day of a time in seconds since 1970, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def record_assumption(store: Store, text: str, *, shown_by: str, by: str, at: float) -> Assumption:
    """Record the assumption of the day. Raises EvalError for a second one of a day, and for one without words."""
    day = day_of(at)
    if not (text.strip() and shown_by.strip() and by.strip()):
        raise EvalError("an invalidated assumption needs words, what showed it, and a person")
    if known := store.acts(ACTION, day):
        raise EvalError(
            f"{day} has its assumption ({known[0].actor}: {known[0].reason}); one a day, so choose tomorrow's"
        )
    detail = {"shown_by": shown_by}
    store.add_act(Act(action=ACTION, actor=by, at=at, subject=day, reason=text, kind="person", detail=detail))
    return Assumption(day, text, shown_by, by)


def assumptions(store: Store, *, since: float, until: float) -> Sequence[Assumption]:
    """Those recorded from `since` to before `until` (seconds since 1970), the oldest first."""
    return [
        Assumption(entry.subject, entry.reason, entry.detail["shown_by"], entry.actor)
        for entry in store.acts(ACTION)
        if since <= entry.at < until
    ]

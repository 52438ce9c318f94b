"""Incidents: opened by an alarm, a rollback or a person, closed by a cause from each role.

An incident is the entries of the audit log that have its name as subject, so it has one order, one clock for each
entry, and nothing of it can be taken back. As long as one is open nothing expands (`standing.py`).

    incident_opened   detail: source, release, began_at     once for each name
    incident_note     what was seen or done meanwhile
    incident_restored users are served well again
    incident_cause    detail: role                          the newest of a role holds
    incident_closed   refused until each role gave a cause
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flyball.errors import ReleaseError, nearest
from flyball.release.approvals import ROLES, owners
from flyball.store.audit import Act, Entry
from flyball.store.store import Store

_OPENED, _RESTORED, _CLOSED = "incident_opened", "incident_restored", "incident_closed"
Source = Literal["alarm", "rollback", "person"]


@dataclass(frozen=True)
class Incident:
    """One incident as it stands. Times are seconds since 1970; None = not yet, or nobody said.

    `source`: what opened it; `began_at`: since when users were harmed; `causes`: by role.
    """

    name: str
    reason: str
    source: Source
    release: str
    opened_at: float
    began_at: float | None
    restored_at: float | None
    closed_at: float | None
    causes: Mapping[str, str]
    timeline: tuple[Entry, ...]

    @property
    def detect_seconds(self) -> float | None:
        """From the harm until the incident was opened."""
        return None if self.began_at is None else self.opened_at - self.began_at

    @property
    def restore_seconds(self) -> float | None:
        """From its opening until users were served well again."""
        return None if self.restored_at is None else self.restored_at - self.opened_at

    @property
    def missing_causes(self) -> tuple[str, ...]:
        """Roles that did not say yet what the cause was."""
        return tuple(role for role in ROLES if role not in self.causes)


def incidents(store: Store) -> list[Incident]:
    """Every incident, the first opened first."""
    return [incident(store, name) for name in dict.fromkeys(entry.subject for entry in store.acts(_OPENED))]


def incident(store: Store, name: str) -> Incident:
    """One incident. Raises ReleaseError where there is none of this name."""
    timeline = [entry for entry in store.acts(subject=name) if entry.action.startswith("incident_")]
    opened = next((entry for entry in timeline if entry.action == _OPENED), None)
    if opened is None:
        known = [entry.subject for entry in store.acts(_OPENED)]
        raise ReleaseError(f"there is no incident {name!r}{nearest(name, known)}")
    at = {entry.action: entry.at for entry in timeline}
    return Incident(
        name=name,
        reason=opened.reason,
        source=opened.detail.get("source", "person" if opened.kind == "person" else "alarm"),
        release=opened.detail.get("release", ""),
        opened_at=opened.at,
        began_at=opened.detail.get("began_at"),
        restored_at=at.get(_RESTORED),
        closed_at=at.get(_CLOSED),
        causes={entry.detail["role"]: entry.reason for entry in timeline if entry.action == "incident_cause"},
        timeline=tuple(timeline),
    )


def open_incident(
    store: Store,
    name: str,
    *,
    by: str,
    reason: str,
    at: float,
    source: Source = "person",
    began_at: float | None = None,
    release: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Open an incident. `by` is a person, or the program that raised the alarm or went back.

    Raises ReleaseError for a name that was used, no reason, or harm in the future.
    """
    if store.acts(_OPENED, name):
        raise ReleaseError(f"incident {name!r} was opened before; a second one needs a name of its own")
    if began_at is not None and began_at > at:
        raise ReleaseError(f"harm cannot have begun {began_at - at:g} s after the incident was opened")
    about = store.release(release).release_id if release else ""
    told = {**(detail or {}), "source": source, "release": about, "began_at": began_at}
    store.add_act(_act(_OPENED, name, by, reason, at, told, "person" if source == "person" else "program"))


def raise_incident(
    store: Store,
    name: str,
    *,
    source: Literal["alarm", "rollback"],
    by: str,
    reason: str,
    at: float,
    began_at: float | None = None,
    release: str = "",
    detail: Mapping[str, Any] | None = None,
) -> bool:
    """What a program does: open the incident unless one of this name was opened before; whether it did.

    A clock that goes backwards or a missing reason does not stop it: what it belongs to, a rollback, must go through.
    """
    if store.acts(_OPENED, name):
        return False
    began = None if began_at is None else min(began_at, at)
    said = reason.strip() or "no reason was given"
    open_incident(store, name, by=by, reason=said, at=at, source=source, began_at=began, release=release, detail=detail)
    return True


def note(store: Store, name: str, *, by: str, text: str, at: float, restored: bool = False) -> None:
    """Add what was seen or done; `restored`: since now users are served well again. Raises ReleaseError."""
    found = _open(store, name)
    if restored and found.restored_at is not None:
        raise ReleaseError(f"incident {name!r} was restored already; a relapse is an incident of its own")
    store.add_act(_act(_RESTORED if restored else "incident_note", name, by, text, at, {}))


def observed_restored(store: Store, name: str, *, by: str, text: str, at: float) -> None:
    """A program saw that users are served well again; nothing where nobody opened it or a person said so before."""
    known = {entry.action for entry in store.acts(subject=name)}
    if _OPENED in known and not known & {_RESTORED, _CLOSED}:
        store.add_act(_act(_RESTORED, name, by, text, at, {}, "program"))


def give_cause(store: Store, name: str, *, role: str, by: str, cause: str, at: float) -> None:
    """A role says what the cause was. Raises ReleaseError unless `by` is the present owner of the role."""
    _open(store, name)
    if role not in ROLES:
        raise ReleaseError(f"there is no role {role!r}{nearest(role, ROLES)}")
    owner = owners(store).get(role)
    if owner is None or owner.name != by:
        present = "nobody" if owner is None else owner.name
        raise ReleaseError(f"{by} cannot give the cause for {role}: its owner is {present} (`flyball release owner`)")
    store.add_act(_act("incident_cause", name, by, cause, at, {"role": role}))


def close_incident(store: Store, name: str, *, by: str, at: float) -> None:
    """Close it. Raises ReleaseError until users are served well again and each role gave a cause."""
    found = _open(store, name)
    if found.restored_at is None:
        raise ReleaseError(f"incident {name!r} cannot be closed: nobody said since when users are served well again")
    if found.missing_causes:
        raise ReleaseError(f"incident {name!r} cannot be closed: no cause from {', '.join(found.missing_causes)}")
    store.add_act(_act(_CLOSED, name, by, "each role gave a cause", at, {}))


def _open(store: Store, name: str) -> Incident:
    found = incident(store, name)
    if found.closed_at is not None:
        raise ReleaseError(f"incident {name!r} is closed; what comes after is an incident of its own")
    return found


def _act(
    action: str,
    name: str,
    by: str,
    reason: str,
    at: float,
    detail: Mapping[str, object],
    kind: Literal["person", "program"] = "person",
) -> Act:
    if not (name.strip() and by.strip() and reason.strip()):
        raise ReleaseError("an incident needs a name, a person who says so, and words")
    return Act(action=action, actor=by, at=at, subject=name, reason=reason, kind=kind, detail=detail)

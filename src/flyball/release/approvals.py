"""Who answers for a release and what they signed: owners, approvals, waivers, all of it in the audit log.

An owner is a person with an Ed25519 key of their own. An approval is their signature over one release under one plan,
until a time; a waiver is the same over one gate that did not pass, with a reason. Nothing is signed for somebody else:
the private key never comes here. What an owner signed counts no longer once they left or the time has passed, and says
nothing about a release that was judged again (its id is the digest of versions and gate results).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from flyball.errors import ReleaseError, nearest
from flyball.release.gate import Owner
from flyball.release.gates import gate
from flyball.release.safety import SAFETY_GATE
from flyball.store.audit import Act, canonical, statement
from flyball.store.signing import SigningKey, is_signed
from flyball.store.store import Store

ROLES: tuple[str, ...] = get_args(Owner)
DUTIES: Mapping[str, str] = {
    "ML": "reward calibration, drift, offline quality",
    "Platform": "rollout controls, routing, rollback",
    "Product": "acceptance thresholds",
}
"""What each role answers for unless a gate says otherwise."""


@dataclass(frozen=True)
class Person:
    """The owner of a role: a name, and the public key (hex) by which their signatures are known."""

    role: str
    name: str
    public: str


@dataclass(frozen=True, kw_only=True)
class Approval:
    """What an owner signs. Times are whole seconds since 1970. With `gate` it waives that gate, without it approves.

    `digest` is that of the release under its plan (`approval_digest`): another plan, another approval.
    """

    release: str
    digest: str
    role: str
    approver: str
    signed_at: int
    expires_at: int
    gate: str = ""
    reason: str = ""
    signature: str = ""

    def signed(self, key: SigningKey) -> Approval:
        """The same with the signature of `key`."""
        return replace(self, signature=key.sign(statement(asdict(self))))


def approval_digest(release_id: str, plan_digest: str) -> str:
    """sha256 of what is approved: the versions and gate results (the release's id) and every number of the plan."""
    return hashlib.sha256(canonical({"plan": plan_digest, "release": release_id})).hexdigest()


# --- owners ----------------------------------------------------------------------------------------------------------


def owners(store: Store) -> dict[str, Person]:
    """The present owner of each role that has one."""
    found: dict[str, Person] = {}
    for entry in store.acts():
        if entry.action == "owner":
            found[entry.subject] = Person(entry.subject, entry.detail["name"], entry.detail["public"])
        elif entry.action == "owner_left":
            found.pop(entry.subject, None)
    return found


def name_owner(store: Store, person: Person, *, by: str, at: float) -> None:
    """Make a person the owner of a role. Raises ReleaseError for an unknown role, no name, or a key that is none."""
    _check_role(person.role)
    if not person.name.strip():
        raise ReleaseError(f"the owner of {person.role} needs a name")
    if len(person.public) != 64 or not set(person.public) <= set("0123456789abcdef"):
        raise ReleaseError(f"{person.public!r} is no public key, which is 64 characters of hex")
    if person.public == store.audit_key.public:
        raise ReleaseError("that is the key of the log itself; an owner signs with a key that only they hold")
    detail = {"name": person.name, "public": person.public}
    store.add_act(Act(action="owner", actor=by, at=at, subject=person.role, kind="person", detail=detail))


def owner_leaves(store: Store, role: str, *, by: str, at: float) -> None:
    """From now on the role has no owner: what they signed counts no longer and nothing expands until another signs.

    Raises ReleaseError when the role has none.
    """
    if (person := owners(store).get(role)) is None:
        raise ReleaseError(f"{role} has no owner who could leave")
    detail = {"name": person.name}
    store.add_act(Act(action="owner_left", actor=by, at=at, subject=role, kind="person", detail=detail))


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ReleaseError(f"unknown role {role!r}{nearest(role, ROLES)}")


# --- approvals -------------------------------------------------------------------------------------------------------


def record_approval(store: Store, approval: Approval, now: float) -> None:
    """Write an approval or a waiver into the audit log.

    Raises ReleaseError unless the owner of the role signed it with their key, it has not expired, and what it waives
    may be waived by that role. The safety gate may not.
    """
    _check_role(approval.role)
    if problem := _invalid(approval, owners(store), now):
        raise ReleaseError(problem)
    if approval.gate == SAFETY_GATE:
        raise ReleaseError(f"{SAFETY_GATE!r} cannot be waived, by nobody and for no time")
    if approval.gate and (owner := gate(approval.gate).owner) != approval.role:
        raise ReleaseError(f"gate {approval.gate!r} belongs to {owner}; {approval.role} cannot waive it")
    if approval.gate and not approval.reason.strip():
        raise ReleaseError(f"a waiver of {approval.gate!r} without a reason; say why, it is read later")
    act = Act(
        action="waiver" if approval.gate else "approval",
        actor=approval.approver,
        at=now,
        subject=approval.release,
        reason=approval.reason,
        kind="person",
        authentication="signature",
        detail=asdict(approval),
    )
    store.add_act(act)


def _invalid(approval: Approval, present: Mapping[str, Person], now: float) -> str | None:
    """Why an approval does not count at `now`, or None."""
    what = f"the {'waiver' if approval.gate else 'approval'} of {approval.role}"
    person = present.get(approval.role)
    if person is None:
        return f"{what} counts no longer: the role has no owner"
    if person.name != approval.approver:
        return f"{what} is by {approval.approver}; the owner is {person.name}"
    if not is_signed(person.public, statement(asdict(approval)), approval.signature):
        return f"{what} is not signed by the key of {person.name}, or was changed after it was signed"
    if now >= approval.expires_at:
        return f"{what} by {person.name} expired"
    return None


@dataclass(frozen=True)
class Signed:
    """What is in force for one release under one plan: roles that approved, gates that are waived, and what lapsed."""

    roles: frozenset[str]
    waived: frozenset[str]
    lapsed: tuple[str, ...]


def in_force(store: Store, release_id: str, digest: str, now: float) -> Signed:
    """What counts at `now` of all that was signed for this release; `lapsed` says why the rest does not."""
    present = owners(store)
    roles, waived, lapsed = set(), set(), []
    for entry in store.acts(subject=release_id):
        if entry.action not in ("approval", "waiver"):
            continue
        approval = _approval(entry.detail)
        if approval.digest != digest:
            lapsed.append(f"{approval.approver} signed another plan or other evidence for {release_id[:12]}")
        elif problem := _invalid(approval, present, now):
            lapsed.append(problem)
        elif approval.gate:
            waived.add(approval.gate)
        else:
            roles.add(approval.role)
    return Signed(frozenset(roles), frozenset(waived), tuple(lapsed))


def _approval(detail: Mapping[str, Any]) -> Approval:
    try:
        return Approval(**detail)
    except TypeError as error:
        raise ReleaseError(f"an approval in the audit log cannot be read ({error}); upgrade flyball") from error

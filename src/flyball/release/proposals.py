"""Change management: a new grader, rubric, tool scope or suite is proposed, reviewed and tried before it counts.

What judges a release decides what a release is, so it changes like one: with a diff, a reviewer who did not write it,
and a regression result on policies that are known. A release whose versions bind other graders, suites or tool
permissions than those in force is held until each change was accepted (`unreviewed`).
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from flyball.errors import ReleaseError, nearest
from flyball.store import records
from flyball.store.audit import Act, Entry
from flyball.store.store import Store
from flyball.types import Comparison, PolicyVersion

Kind = Literal["grader", "rubric", "tool_scope", "suite"]


@dataclass(frozen=True)
class Proposal:
    """A change of what judges or permits. `after` is the digest that versions bind; `accepted_by` is "" while open."""

    proposal_id: str
    kind: Kind
    name: str
    before: str
    after: str
    diff: str
    by: str
    accepted_by: str = ""


def propose(store: Store, kind: Kind, name: str, before: bytes, after: bytes, *, by: str, at: float) -> Proposal:
    """Propose a change from one text (b"": there was none) to another. Raises ReleaseError when nothing changes."""
    if kind not in get_args(Kind):
        raise ReleaseError(f"unknown kind of change {kind!r}{nearest(kind, get_args(Kind))}")
    if not by.strip() or before == after:
        raise ReleaseError(f"{kind} {name!r}: a proposal needs a person and a difference")
    old, new = [text.decode(errors="replace").splitlines() for text in (before, after)]
    diff = "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm=""))
    found = {
        "before": store.artifacts.put_bytes(before),
        "after": store.artifacts.put_bytes(after),
        "diff": store.artifacts.put_bytes(diff.encode()),
    }
    name_of = hashlib.sha256("\n".join((kind, name, found["before"], found["after"])).encode()).hexdigest()
    detail = {"kind": kind, "name": name}
    act = Act(action="proposal", actor=by, at=at, subject=name_of, kind="person", evidence=found, detail=detail)
    store.add_act(act)
    return proposal(store, name_of)


def accept(store: Store, proposal_id: str, regression: Comparison, *, by: str, at: float) -> Proposal:
    """Accept a proposal on its regression result: a known policy judged by the old and by the new.

    Raises ReleaseError for an unknown or accepted one, a reviewer who proposed it, and a regression that is no accept.
    """
    found = proposal(store, proposal_id)
    if found.accepted_by:
        raise ReleaseError(f"proposal {proposal_id[:12]} was accepted by {found.accepted_by}")
    if not by.strip() or by == found.by:
        raise ReleaseError(f"{by or 'nobody'} cannot review a change that {found.by} proposed; ask somebody else")
    if regression.verdict != "accept":
        raise ReleaseError(
            f"the regression of {found.kind} {found.name!r} is {regression.verdict}: {regression.difference}; a change "
            "of what judges must not change the verdict on what is known"
        )
    evidence = {"regression": store.artifacts.put_bytes(records.to_json(regression).encode())}
    act = Act(action="proposal_accepted", actor=by, at=at, subject=proposal_id, kind="person", evidence=evidence)
    store.add_act(act)
    return proposal(store, proposal_id)


def proposal(store: Store, proposal_id: str) -> Proposal:
    """One proposal as it is now. Raises ReleaseError for an unknown one."""
    entries = store.acts(subject=proposal_id)
    proposed = [entry for entry in entries if entry.action == "proposal"]
    if not proposed:
        raise ReleaseError(f"there is no proposal {proposal_id!r}")
    accepted = [entry.actor for entry in entries if entry.action == "proposal_accepted"]
    return _proposal(proposed[0], accepted[0] if accepted else "")


def _proposal(entry: Entry, accepted_by: str) -> Proposal:
    evidence = entry.evidence
    return Proposal(
        entry.subject,
        entry.detail["kind"],
        entry.detail["name"],
        evidence["before"],
        evidence["after"],
        evidence["diff"],
        entry.actor,
        accepted_by,
    )


def unreviewed(store: Store, baseline: PolicyVersion, candidate: PolicyVersion) -> tuple[str, ...]:
    """Graders, suites and tool permissions that the candidate binds and the baseline does not, without an accepted
    proposal, as reasons."""
    accepted = {entry.subject for entry in store.acts("proposal_accepted")}
    allowed = {entry.evidence["after"] for entry in store.acts("proposal") if entry.subject in accepted}
    return tuple(
        f"{what.removesuffix('s')} {name!r} changed to {digest[:12]} without an accepted proposal"
        for what in ("graders", "suites", "tools")
        for name, digest in sorted(getattr(candidate, what).items())
        if getattr(baseline, what).get(name) != digest and digest not in allowed
    )

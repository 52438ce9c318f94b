"""Change management: a new grader, rubric, tool scope or suite is proposed, reviewed and tried before it counts.

What judges a release decides what a release is, so it changes like one: with a diff, a reviewer who did not write it,
and a regression result on policies that are known. A release whose versions bind other graders, suites or tool
permissions than those in force is held until each change was accepted (`unreviewed`).

    proposal             detail: kind, name, binds    evidence: before, after, diff
    proposal_accepted    evidence: regression         the end
    proposal_rejected    reason                       the same change may be proposed again
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from flyball.errors import ReleaseError, nearest
from flyball.store import records
from flyball.store.audit import Act, Entry
from flyball.store.store import Store
from flyball.types import Comparison, PolicyVersion

Kind = Literal["grader", "rubric", "tool_scope", "suite"]
State = Literal["open", "accepted", "rejected"]

BOUND: Mapping[Kind, str] = {"grader": "graders", "rubric": "graders", "tool_scope": "tools", "suite": "suites"}
"""Which field of a version binds what a proposal changes."""
_DECISIONS: Mapping[str, State] = {"proposal_accepted": "accepted", "proposal_rejected": "rejected"}


@dataclass(frozen=True)
class Proposal:
    """A change of what judges or permits. `before`, `after`, `diff` and `regression` are digests of what is stored;
    `binds` is the digest that versions bind. `reviewer`, `reason` and `regression` are "" as long as nobody gave
    them."""

    proposal_id: str
    kind: Kind
    name: str
    before: str
    after: str
    diff: str
    binds: str
    by: str
    state: State = "open"
    reviewer: str = ""
    reason: str = ""
    regression: str = ""


def propose(
    store: Store, kind: Kind, name: str, before: bytes, after: bytes, *, by: str, at: float, binds: str = ""
) -> Proposal:
    """Propose a change from one text (b"": there was none) to another.

    `binds`: the digest that a version binds under this name, where that is not the digest of the text. Raises
    ReleaseError when nothing changes, and for a change that is open or accepted already.
    """
    if kind not in get_args(Kind):
        raise ReleaseError(f"unknown kind of change {kind!r}{nearest(kind, get_args(Kind))}")
    if not by.strip() or not name.strip() or before == after:
        raise ReleaseError(f"{kind} {name!r}: a proposal needs a name, a person and a difference")
    old, new = [text.decode(errors="replace").splitlines() for text in (before, after)]
    diff = "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm=""))
    evidence = {
        "before": store.artifacts.put_bytes(before),
        "after": store.artifacts.put_bytes(after),
        "diff": store.artifacts.put_bytes(diff.encode()),
    }
    detail = {"kind": kind, "name": name, "binds": binds or evidence["after"]}
    parts = (kind, name, evidence["before"], evidence["after"], detail["binds"])
    proposal_id = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    act = Act(action="proposal", actor=by, at=at, subject=proposal_id, kind="person", evidence=evidence, detail=detail)
    with store.together():
        for known in proposals(store):
            if known.proposal_id == proposal_id and known.state != "rejected":
                raise ReleaseError(f"{kind} {name!r}: {known.by} proposed this change, it is {known.state}")
        store.add_act(act)
    return proposal(store, proposal_id)


def accept(store: Store, proposal_id: str, regression: Comparison | None, *, by: str, at: float) -> Proposal:
    """Accept a proposal on its regression result: a known policy judged by the old and by the new.

    Raises ReleaseError for an unknown or a decided one, a reviewer who proposed it, and a regression that is absent or
    shows another verdict: what judges must agree within the margin on both sides, a tool scope must not be worse.
    """
    with store.together():
        found = _open(store, proposal_id, by)
        if by == found.by:
            raise ReleaseError(f"{by} cannot review a change that {found.by} proposed; ask somebody else")
        what = f"{found.kind} {found.name!r}"
        if regression is None:
            raise ReleaseError(
                f"{what} counts only on a regression result: judge a known policy by the old and by the new, and "
                "give both scores"
            )
        if regression.verdict != "accept" or (
            found.kind != "tool_scope" and regression.difference.high > regression.margin
        ):
            raise ReleaseError(
                f"the regression of {what} is not within its margin of {regression.margin:g}: {_told(regression)}; a "
                "change of what judges must not change the verdict on what is known"
            )
        evidence = {"regression": store.artifacts.put_bytes(records.to_json(regression).encode())}
        store.add_act(_decision("proposal_accepted", found, by, at, "", evidence))
    return proposal(store, found.proposal_id)


def reject(store: Store, proposal_id: str, *, by: str, reason: str, at: float) -> Proposal:
    """Reject a proposal, also one's own. Raises ReleaseError for an unknown or a decided one, and without a reason."""
    with store.together():
        found = _open(store, proposal_id, by)
        if not reason.strip():
            raise ReleaseError("a proposal is rejected for a reason; give it, who proposed it wants to know")
        store.add_act(_decision("proposal_rejected", found, by, at, reason))
    return proposal(store, found.proposal_id)


def proposals(store: Store) -> list[Proposal]:
    """Every proposal as it is now, the first proposed first."""
    return [proposal(store, one) for one in dict.fromkeys(entry.subject for entry in store.acts("proposal"))]


def proposal(store: Store, proposal_id: str) -> Proposal:
    """One proposal as it is now, by its id or a beginning of it that no other shares. Raises ReleaseError."""
    known = dict.fromkeys(entry.subject for entry in store.acts("proposal"))
    found = [one for one in known if one.startswith(proposal_id)] if proposal_id else []
    if len(found) != 1:
        count = f"{len(found)} proposals begin with" if found else "there is no proposal"
        raise ReleaseError(f"{count} {proposal_id!r}; `flyball proposals list` shows them")
    return _proposal(store.acts(subject=found[0]))


def regression_of(store: Store, of: Proposal) -> Comparison | None:
    """The regression result that a proposal was accepted on, None before. Raises StoreError when it is damaged."""
    if not of.regression:
        return None
    found = records.from_json(store.artifacts.get_bytes(of.regression))
    assert isinstance(found, Comparison)
    return found


def unreviewed(store: Store, baseline: PolicyVersion, candidate: PolicyVersion) -> tuple[str, ...]:
    """Graders, suites and tool permissions that the candidate binds and the baseline does not, without an accepted
    proposal of that very change, as reasons."""
    allowed = {(BOUND[one.kind], one.name, one.binds) for one in proposals(store) if one.state == "accepted"}
    return tuple(
        f"{what.removesuffix('s')} {name!r} changed to {digest[:12]} without an accepted proposal"
        for what in ("graders", "suites", "tools")
        for name, digest in sorted(getattr(candidate, what).items())
        if getattr(baseline, what).get(name) != digest and (what, name, digest) not in allowed
    )


def _open(store: Store, proposal_id: str, by: str) -> Proposal:
    """A proposal that `by` may decide on."""
    if not by.strip():
        raise ReleaseError("a proposal is decided by a named reviewer; give `by`")
    found = proposal(store, proposal_id)
    if found.state != "open":
        raise ReleaseError(f"proposal {found.proposal_id[:12]} was {found.state} by {found.reviewer}")
    return found


def _decision(
    action: str, of: Proposal, by: str, at: float, reason: str, evidence: Mapping[str, str] | None = None
) -> Act:
    subject = of.proposal_id
    return Act(action=action, actor=by, at=at, subject=subject, kind="person", reason=reason, evidence=evidence or {})


def _proposal(entries: list[Entry]) -> Proposal:
    """What the entries of one subject come to; the last decision after the last proposal holds."""
    begun = max(i for i, entry in enumerate(entries) if entry.action == "proposal")
    first, decided = entries[begun], entries[-1] if entries[-1].action in _DECISIONS else None
    return Proposal(
        first.subject,
        first.detail["kind"],
        first.detail["name"],
        first.evidence["before"],
        first.evidence["after"],
        first.evidence["diff"],
        first.detail.get("binds", first.evidence["after"]),  # the log of earlier versions has none
        first.actor,
        _DECISIONS[decided.action] if decided else "open",
        decided.actor if decided else "",
        decided.reason if decided else "",
        decided.evidence.get("regression", "") if decided else "",
    )


def _told(regression: Comparison) -> str:
    found = regression.difference
    points = [f"{100 * end:+.1f}" for end in (found.value, found.low, found.high)]
    return f"{points[0]} points [{points[1]}, {points[2]}], n={found.n}"

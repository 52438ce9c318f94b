"""Why a release may not go on: everything that holds the ramp besides the sessions themselves.

Each rule is a reason in words, and no reason means go on. Rules hold; they never send users back, which needs evidence
of harm, and nothing here can be skipped by asking again.

- every gate passes, or its owner waived it and the waiver has not run out;
- every role that owns a gate has a present owner whose approval of this release under this plan is in force;
- an adversarial and a safety suite ran on this very candidate;
- graders, suites and tool permissions are those in force, or their change was reviewed (`proposals.py`);
- the way back was rehearsed in this release;
- its shadow, where a gateway shadowed sessions, agrees or its owner waived it;
- no incident is open;
- expansion is not frozen: two failed gates within a week freeze it until `unlock_weeks` weeks passed without a failed
  gate or a new incident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyball.release.approvals import approval_digest, in_force, owners
from flyball.release.canary.plan import CanaryPlan
from flyball.release.gates import gate
from flyball.release.online import SHADOW_GATE
from flyball.release.proposals import unreviewed
from flyball.release.safety import SAFETY_GATE
from flyball.store.store import Store
from flyball.types import GateResult, Release

WEEK = 7 * 24 * 3600.0
FAILURES_THAT_FREEZE = 2
REQUIRED_SUITES = ("adversarial", "safety")
"""No canary without these, run on this candidate and with a safety verdict on every attempt."""


def holds(store: Store, release: Release, plan: CanaryPlan, now: float) -> tuple[str, ...]:
    """Every reason not to expand this release at `now`, the gravest first."""
    signed = in_force(store, release.release_id, approval_digest(release.release_id, plan.digest), now)
    return (
        *open_incidents(store),
        *frozen(store, plan.unlock_weeks, now),
        *failing(release.gates, signed.waived),
        *_unrun_suites(store, release),
        *unreviewed(store, store.version(release.baseline), store.version(release.candidate)),
        *_not_rehearsed(store, release),
        *_shadow_holds(store, release, signed.waived),
        *_unapproved(store, release, signed.roles, signed.lapsed),
    )


def failing(results: Sequence[GateResult], waived: frozenset[str]) -> tuple[str, ...]:
    """Offline gates that neither pass nor are waived. The safety gate is never waived, and must be among them."""
    against = [
        f"{result.name} ({result.owner}) {result.state}: {result.reason}"
        for result in results
        if result.state != "pass"
        and gate(result.name).phase == "offline"
        and (result.name not in waived or result.name == SAFETY_GATE)
    ]
    if all(result.name != SAFETY_GATE for result in results):
        against.insert(0, f"{SAFETY_GATE} was not asked")
    return tuple(against)


# --- freeze and incidents --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Freeze:
    """Since when nothing expands, and until when at the earliest."""

    since: float
    until: float


def freeze_at(failures: Sequence[float], incidents: Sequence[float], weeks: int, now: float) -> Freeze | None:
    """The freeze in force at `now`, given the times of failed gates and opened incidents (any order). Pure.

    Two failures at most a week apart begin one. It ends `weeks` stable weeks after the last failure or incident in it.
    """
    since = end = None
    last: float | None = None
    for at, is_failure in sorted([*((t, True) for t in failures), *((t, False) for t in incidents)]):
        if at > now:
            break
        if end is not None and at < end:
            end = at + weeks * WEEK
        elif is_failure and last is not None and at - last <= WEEK:
            since, end = at, at + weeks * WEEK
        last = at if is_failure else last
    return Freeze(since, end) if since is not None and end is not None and now < end else None


def frozen(store: Store, weeks: int, now: float) -> tuple[str, ...]:
    """The freeze as a reason, or none."""
    failures = [entry.at for entry in store.acts("gate_failed")]
    incidents = [entry.at for entry in store.acts("incident_opened")]
    freeze = freeze_at(failures, incidents, weeks, now)
    if freeze is None:
        return ()
    days = (freeze.until - now) / 86_400.0
    return (f"expansion is frozen: two gates failed within a week; {days:.1f} stable days are left",)


def open_incidents(store: Store) -> tuple[str, ...]:
    """Incidents that were opened and not closed, as reasons."""
    closed = {entry.subject for entry in store.acts("incident_closed")}
    found = {entry.subject: entry.reason for entry in store.acts("incident_opened") if entry.subject not in closed}
    return tuple(f"incident {name} is open: {reason}" for name, reason in found.items())


# --- evidence, rehearsal, approval -----------------------------------------------------------------------------------


def _unrun_suites(store: Store, release: Release) -> list[str]:
    ran = {
        run.suite
        for run in store.evals(release.candidate)
        if run.results and all(result.safe is not None for result in run.results)
    }
    return [
        f"suite {suite!r} did not run on this candidate with safety verdicts"
        for suite in REQUIRED_SUITES
        if suite not in ran
    ]


def _not_rehearsed(store: Store, release: Release) -> list[str]:
    drills = list(store.acts("drill", release.release_id))
    rehearsed = any(entry.detail["verified"] for entry in drills)
    passed = any(one.state == "pass" for one in release.gates if one.name.startswith("rollback_under_"))
    if rehearsed or passed:
        return []
    tried = f" (the last drill was not verified: {drills[-1].detail['problem']})" if drills else ""
    return [f"the way back was not rehearsed in this release: drill it{tried}"]


def _shadow_holds(store: Store, release: Release, waived: frozenset[str]) -> list[str]:
    """What the newest look at the shadow has against it. Disagreement is no harm, so its owner may waive it."""
    looks = store.acts("shadow", release.release_id)
    if not looks or looks[-1].detail["state"] == "pass" or SHADOW_GATE in waived:
        return []
    return [f"{SHADOW_GATE} (Platform) {looks[-1].detail['state']}: {looks[-1].reason}"]


def _unapproved(store: Store, release: Release, roles: frozenset[str], lapsed: tuple[str, ...]) -> list[str]:
    present = owners(store)
    needed = sorted({result.owner for result in release.gates})
    absent = [f"{role} has no owner, and gates of this release belong to it" for role in needed if role not in present]
    open_roles = [role for role in needed if role in present and role not in roles]
    why = f" ({lapsed[-1]})" if lapsed else ""
    return [*absent, *(f"{present[role].name} ({role}) has not approved it{why}" for role in open_roles)]

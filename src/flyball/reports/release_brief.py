"""The Brief of a release from the store alone: offline scores, the drill, what users met and what was decided.

Nothing is judged anew: the tests of the canary are worked out from the sessions that the last decision rests on, which
gives the same numbers again (`release/replay.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flyball.config import EconomicsSettings
from flyball.errors import EvalError
from flyball.evals.compare import compare
from flyball.evals.reward_accuracy import newest_judge, refreshed_after
from flyball.evals.summary import summarise
from flyball.release.approvals import approval_digest, in_force
from flyball.release.canary.detection import DetectionTable
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.readings import CANARY_TESTS, Reading
from flyball.release.canary.verdict import CanaryVerdict
from flyball.release.controller import Restored
from flyball.release.evidence import Evidence, SuitePair
from flyball.release.incidents import incidents
from flyball.release.kept import kept_detection, kept_plan, kept_sessions
from flyball.release.live import Live, live_from_sessions
from flyball.release.online import ONLINE_GATES, SHADOW_GATE
from flyball.release.rollback import Drill, DrillStep
from flyball.release.routing import RoutingTable
from flyball.reports.brief import Brief, Cost, Course, Guardrail, Says, Seen, make_brief
from flyball.reports.budget import empty_lines
from flyball.reports.words import Text, message
from flyball.store.audit import Entry
from flyball.store.store import Store
from flyball.types import Comparison, GateState, PolicyVersion, Release

UNITS: Mapping[str, str] = {"latency": "relative", "cost_per_success": "USD"}
"""How the harm that a test of the canary reads is written; otherwise as points."""
HOUR, DAY = 3600.0, 24 * 3600.0


def brief_of_release(store: Store, release_id: str, budget: EconomicsSettings) -> Brief:
    """The Brief of a release as it stands. `budget`: what is paid beside serving. Raises StoreError for an unknown
    release."""
    release = store.release(release_id)
    baseline, candidate = store.version(release.baseline), store.version(release.candidate)
    entries = store.acts(subject=release.release_id)
    tables = [RoutingTable.from_json(stored.body) for stored in store.routes(release.release_id)]
    evidence, apart = _offline(store, release, entries)
    plan = kept_plan(store, tables[-1].plan) if tables else None
    looked = _last_look(store, entries)
    restored = _restored(entries)
    last = tables[-1].since if tables else entries[-1].at
    signed: Sequence[str] = ()
    if plan is not None:
        signed = sorted(
            in_force(store, release.release_id, approval_digest(release.release_id, plan.digest), last).roles
        )
    return make_brief(
        title=candidate.name,
        date=datetime.fromtimestamp(last, UTC).date().isoformat(),
        baseline=baseline,
        candidate=candidate,
        release=release,
        evidence=evidence,
        summary=_summary(store, baseline, candidate),
        guardrails=_guardrails(candidate, plan, evidence.drill, signed),
        limits=[*apart, message("limits.imported"), *([message("limits.rare")] if looked else [])],
        cost=_cost(evidence),
        unbudgeted=empty_lines(budget),
        verify=f"flyball verify {release.release_id[:12]}",
        foreseen=_foreseen(store, entries),
        course=_course(tables, looked, restored),
        watched=_watched(looked, restored, entries),
        alarms=alarms_of(store, release.candidate),
        signed=signed,
        logged=len(entries),
    )


# --- before users ----------------------------------------------------------------------------------------------------


def _summary(store: Store, baseline: PolicyVersion, candidate: PolicyVersion) -> Text:
    said = message("summary.release", candidate=candidate.name, baseline=baseline.name)
    for run_id in {run.run_id for run in store.evals(candidate.version_id)}:
        steps = refreshed_after(store, run_id)
        if steps and newest_judge(store, run_id) == candidate.reward_model:  # so the run trained it, not only judged it
            return message("summary.refreshed", said=said, how=refreshed(steps))
    return said


def refreshed(steps: Sequence[int]) -> Text:
    """That a reward model was trained anew while the policy learned from it, after these steps."""
    return message("method.refreshed", n=len(steps), last=steps[-1])


def _offline(store: Store, release: Release, entries: Sequence[Entry]) -> tuple[Evidence, list[Text]]:
    """The newest evaluation of either version on each suite that both ran, and why some are not compared."""
    runs = [{run.suite: run for run in store.evals(version)} for version in (release.baseline, release.candidate)]
    pairs: list[SuitePair] = []
    comparisons: list[Comparison] = []
    apart: list[Text] = []
    for suite in (suite for suite in runs[0] if suite in runs[1]):
        pair = SuitePair(suite, runs[0][suite], runs[1][suite])
        try:
            comparisons.append(compare(pair.baseline, pair.candidate))
            pairs.append(pair)
        except EvalError as error:
            apart.append(message("limits.not_compared", suite=suite, reason=error.args[0]))
    suites = [pair.suite for pair in pairs]
    evidence = Evidence.from_runs(
        [pair.baseline for pair in pairs],
        [pair.candidate for pair in pairs],
        comparisons=comparisons,
        drill=_drill(release, entries),
        primary="test" if "test" in suites or not suites else suites[0],
    )
    return evidence, apart


def _drill(release: Release, entries: Sequence[Entry]) -> Drill | None:
    """The last rehearsal of this release."""
    drills = [entry.detail for entry in entries if entry.action == "drill"]
    if not drills:
        return None
    said = drills[-1]
    steps = (DrillStep("by hand" if said["by_hand"] else "through the gateway", said["seconds"], True),)
    return Drill(release.baseline, release.candidate, steps, said["verified"], said["problem"])


def _cost(evidence: Evidence) -> Cost | None:
    if (pair := evidence.suites.get(evidence.primary)) is None:
        return None
    before, after = (summarise(run)[0].numbers.get("cost_per_success_usd") for run in (pair.baseline, pair.candidate))
    return None if before is None or after is None else Cost(before, after, message("prices.recorded"))


def _foreseen(store: Store, entries: Sequence[Entry]) -> DetectionTable | None:
    """The detection table of the launch; None before it, or where the launch is older than the table's keeping."""
    kept = [entry.evidence["detection"] for entry in entries if "detection" in entry.evidence]
    return kept_detection(store, kept[-1]) if kept else None


def _guardrails(
    candidate: PolicyVersion, plan: CanaryPlan | None, drill: Drill | None, signed: Sequence[str]
) -> list[Guardrail]:
    drilled = drill is not None and drill.verified
    found = [
        Guardrail(
            message("rail.drill"),
            drilled,
            message("rail.drill.of", seconds=drill.seconds) if drill and drilled else message("rail.drill.none"),
        ),
        Guardrail(
            message("rail.signed"),
            bool(signed),
            message("rail.signed.of", roles=signed) if signed else message("rail.signed.none"),
        ),
    ]
    if plan is None:
        tools = Guardrail(message("rail.tools"), True, message("rail.tools.of", n=len(candidate.tools)))
        return [*found, tools, Guardrail(message("rail.canary"), False, message("rail.canary.none"))]
    return [
        Guardrail(
            message("rail.automatic"),
            True,
            message("rail.automatic.of", n=len(CANARY_TESTS), alpha=plan.alpha_rollback),
        ),
        Guardrail(message("rail.critical"), True, message("rail.critical.of")),
        Guardrail(message("rail.labels"), True, message("rail.labels.of", hours=plan.label_deadline / HOUR)),
        Guardrail(message("rail.ramp"), True, message("rail.ramp.of", shares=plan.stages)),
        *found,
    ]


# --- among users -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Looked:
    """The last look that moved the release: how many sessions of each arm it saw, and what they showed."""

    live: Live
    verdict: CanaryVerdict
    canary: int
    holdback: int


def _last_look(store: Store, entries: Sequence[Entry]) -> _Looked | None:
    looks = [entry for entry in entries if entry.action == "route" and "look" in entry.detail]
    if not looks:
        return None
    plan, now = kept_plan(store, looks[-1].evidence["plan"]), looks[-1].detail["look"]["now"]
    sessions = [s for s in kept_sessions(store, looks[-1].evidence["sessions"]) if s.assigned_at <= now]
    live = live_from_sessions(sessions, plan, now)
    assert live.canary is not None  # sessions were judged
    arms = [session.arm for session in sessions]
    return _Looked(live, live.canary, arms.count("canary"), arms.count("holdback"))


def _restored(entries: Sequence[Entry]) -> Restored | None:
    found = [entry.detail for entry in entries if entry.action == "restored"]
    return Restored(found[-1]["detect_seconds"], found[-1]["restore_seconds"]) if found else None


def _course(tables: Sequence[RoutingTable], looked: _Looked | None, restored: Restored | None) -> Course | None:
    """None as long as no user was given the candidate."""
    met = [table for table in tables if table.stage == "canary"]
    if not met:
        return None
    return Course(
        shares=tuple(dict.fromkeys(table.share for table in met)),
        seconds=tables[-1].since - met[0].since,
        canary=looked.canary if looked else 0,
        holdback=looked.holdback if looked else 0,
        readings=tuple(_seen(reading) for reading in looked.verdict.readings) if looked else (),
        decided=_decided(tables[-1], looked),
        restored=restored,
    )


def _seen(reading: Reading) -> Seen:
    words: dict[bool | None, Says] = {True: "excluded", False: "open", None: "quiet"}
    says: Says = "back" if reading.rollback_at is not None else words[reading.promotes]
    return Seen(reading.name, replace(reading.estimate, unit=UNITS.get(reading.name, "share")), says)


def _decided(table: RoutingTable, looked: _Looked | None) -> Text:
    """Why it stands where it does."""
    if table.stage == "canary" or looked is None:
        return (
            message("decided.under_way") if table.stage == "canary" else message("decided.quoted", reason=table.reason)
        )
    if table.stage == "general":
        return message("decided.ready")
    if looked.verdict.critical:
        return message("decided.critical")
    against = [seen for seen in map(_seen, looked.verdict.readings) if seen.says == "back"]
    if not against or not table.reason.startswith(against[0].name):
        return message("decided.quoted", reason=table.reason)
    return message("decided.back", test=message(f"test.{against[0].name}"), harm=against[0].estimate)


def _watched(looked: _Looked | None, restored: Restored | None, entries: Sequence[Entry]) -> dict[str, GateState]:
    """What online gates, tests of the canary, the shadow and the confirmation of a restore say, by name."""
    evidence = Evidence(live=looked.live if looked else None)
    found: dict[str, GateState] = {gate.name: gate.evaluate(evidence).state for gate in ONLINE_GATES}
    if looked:
        found |= {reading.name: _seen(reading).state for reading in looked.verdict.readings}
    if shadow := [entry.detail["state"] for entry in entries if entry.action == "shadow"]:
        found[SHADOW_GATE] = shadow[-1]
    if restored:
        found["restored"] = "pass"
    return found


def alarms_of(store: Store, version: str) -> frozenset[str]:
    """Monitors of a version whose alarm opened an incident that is not closed yet."""
    told = [one.timeline[0].detail for one in incidents(store) if one.closed_at is None]
    return frozenset(detail["monitor"] for detail in told if "monitor" in detail and detail.get("version") == version)

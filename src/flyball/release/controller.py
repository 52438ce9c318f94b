"""The controller: takes a release from offline to general, or back, one durable step at a time.

The routing table in the store is the state. Its number is the compare-and-set: of two controllers one writes table
n + 1 and the other is refused, and a controller that was killed finds its place by reading the latest table. Everything
else (the release's stage, the production alias) follows from the table and is repaired from it at every tick, so a
kill between two writes promotes nobody by accident.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from flyball.errors import ReleaseError
from flyball.release.approvals import approval_digest, in_force
from flyball.release.canary.detection import DetectionTable, check_launch
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.steps import Decision, Standing, decide
from flyball.release.canary.units import ServedSession
from flyball.release.canary.verdict import CanaryVerdict, judge_canary
from flyball.release.change import Alarm, change_alarms, reference_of
from flyball.release.incidents import observed_restored, raise_incident
from flyball.release.kept import keep_detection, keep_plan, keep_sessions, keep_shadow, keep_verdict, kept_sessions
from flyball.release.live import Live
from flyball.release.online import failing_live, shadow_result
from flyball.release.registry import PRODUCTION, Registry
from flyball.release.rollback import Drill
from flyball.release.routing import RoutingTable, SessionPolicy, Stage
from flyball.release.serving import Gateway, drill_routing
from flyball.release.shadow import Shadowed
from flyball.release.standing import failing, holds
from flyball.release.verdict import is_ready
from flyball.store.audit import Act
from flyball.store.store import Store
from flyball.types import GateResult, Release

OBSERVED_SECONDS = 1.0
"""Of answers to users that a restore is confirmed by."""
_ENDS = ("general", "rolled_back")
ROLLBACK = "rollback"
"""What the incident of a rollback is called after the beginning of its release."""


@dataclass(frozen=True)
class Tick:
    """One look: what the sessions proved, what was decided, and the table in force afterwards."""

    verdict: CanaryVerdict
    decision: Decision
    table: RoutingTable


@dataclass(frozen=True)
class Restored:
    """A rollback that was seen to have happened. `detect_seconds`: from the first user on the candidate to the
    decision; `restore_seconds`: from there until users were seen to be answered by the version in force alone."""

    detect_seconds: float
    restore_seconds: float


class Controller:
    """Moves one release at a time. `actor` is written beside every change; times are seconds since 1970."""

    def __init__(self, store: Store, actor: str = "flyball") -> None:
        self._store = store
        self._actor = actor

    def table(self) -> RoutingTable | None:
        """The routing table in force, None before the first release."""
        stored = self._store.route()
        return None if stored is None else RoutingTable.from_json(stored.body)

    def launch(
        self, release: Release, plan: CanaryPlan, *, base: float, units_per_day: float, now: float
    ) -> DetectionTable:
        """Begin the shadow of a release, and keep and return what its canary will be able to see.

        `base`: success of the version in force, `units_per_day`: traffic. Raises ReleaseError unless the offline gates
        said ready, the baseline serves production, nothing else is under way, and the harm that the owner named can be
        seen within the horizon.
        """
        digest = approval_digest(release.release_id, plan.digest)
        waived = in_force(self._store, release.release_id, digest, now).waived
        against = failing(release.gates, waived)
        if not is_ready(release.verdict) and not failing(release.gates, frozenset()):
            against = (release.verdict,)  # the words and the gates do not agree, so one of them was changed
        if tables := self._tables(release.release_id):
            raise ReleaseError(
                f"release {release.release_id[:12]} was launched before and is at stage {tables[-1].stage}; what it "
                "ended by stands. Judge the candidate on new evidence: that release has an id of its own"
            )
        if against:
            self._note_failures(release, now)
            raise ReleaseError(
                f"release {release.release_id[:12]} is {release.verdict!r}; only one whose offline gates pass, or are "
                f"waived by their owners, can be shadowed: {'; '.join(against)}"
            )
        current = self.table()
        if current is not None and current.stage not in _ENDS:
            raise ReleaseError(
                f"release {current.release_id[:12]} is at stage {current.stage}; one release at a time, or "
                "their effects could not be told apart. Finish it or take it back"
            )
        if (serving := self._store.alias(PRODUCTION)) != release.baseline:
            raise ReleaseError(
                f"production serves {serving}, the release was judged against {release.baseline}; judge it again"
            )
        seen = check_launch(plan, base=base, units_per_day=units_per_day)
        evidence = {"plan": keep_plan(self._store, plan), "detection": keep_detection(self._store, seen)}
        self._write(
            RoutingTable(
                version=1 if current is None else current.version + 1,
                release_id=release.release_id,
                stage="shadow",
                stable=release.baseline,
                candidate=release.candidate,
                share=0.0,
                salt=secrets.token_hex(16),
                unit=plan.unit,
                plan=plan.digest,
                since=now,
                actor=self._actor,
                reason="offline gates passed",
            ),
            at=now,
            evidence=evidence,
        )
        return seen

    def look_at_shadow(self, found: Shadowed, now: float) -> GateResult:
        """What the sessions shadowed so far say of `shadow_agreement`, recorded when the gate's state changed.

        Where sessions were chosen to be shadowed it holds the canary until the gate passes or its owner waives it.
        Raises ReleaseError unless a release is in shadow.
        """
        table, result = self._at("shadow"), shadow_result(found)
        told = self._store.acts("shadow", table.release_id)
        if found.chosen and (not told or told[-1].detail["state"] != result.state):
            self._record_shadow(table, found, result, now)
        return result

    def begin_canary(self, plan: CanaryPlan, *, by: str, now: float, shadow: Shadowed | None = None) -> RoutingTable:
        """The first share of the plan. `by` is the person who decides it; `shadow` is recorded as what they saw.

        Raises ReleaseError unless the release is in shadow and nothing holds it (`standing.holds`).
        """
        table = self._at("shadow", plan)
        if not by.strip():
            raise ReleaseError("a canary begins by the decision of a named person; give `by`")
        if shadow is not None and shadow.chosen:
            self._record_shadow(table, shadow, shadow_result(shadow), now)
        if against := self.holds(plan, now):
            raise ReleaseError(f"the canary cannot begin: {'; '.join(against)}")
        return self._change(table, "canary", plan.stages[0], now, f"shadow ended by {by}", actor=by)

    def holds(self, plan: CanaryPlan, now: float) -> tuple[str, ...]:
        """Why the release under way may not expand at `now`, the gravest reason first; none when it may."""
        table = self.table()
        return () if table is None else holds(self._store, self._store.release(table.release_id), plan, now)

    def tick(self, plan: CanaryPlan, sessions: Sequence[ServedSession], now: float, live: Live | None = None) -> Tick:
        """Look at the sessions of the canary under way and do what follows. Raises ReleaseError without a canary.

        Evidence of harm sends it back whatever else holds; what holds it keeps it from expanding, and so does an online
        gate that fails on `live` (telemetry, drift, quality).
        """
        self.repair()
        table = self._at("canary", plan)
        begun = self._begun(table.release_id)
        verdict = judge_canary(sessions, plan, now)
        against = self._held(plan, table, now, live)
        standing = Standing(table.share, table.since, begun, against[0] if against else "")
        decision = decide(plan, standing, verdict, now)
        if decision.move in ("stay", "hold"):
            return Tick(verdict, decision, table)
        look = _Look(plan, sessions, verdict, now, decision.move, standing)
        if decision.move == "go_back":
            policy: SessionPolicy = "finish"
            if decision.reason.startswith(("critical", "safety")):
                policy = "cut" if verdict.critical else "switch"
            table = self._change(table, "rolled_back", 0.0, now, decision.reason, sessions=policy, look=look)
        elif decision.move == "advance":
            table = self._change(table, "canary", decision.share, now, decision.reason, look=look)
        else:
            signed = f"{decision.reason}; plan signed by {plan.signed_by}"
            table = self._change(table, "general", 0.0, now, signed, look=look)
        return Tick(verdict, decision, table)

    def promote(
        self, plan: CanaryPlan, sessions: Sequence[ServedSession], *, by: str, now: float, live: Live | None = None
    ) -> RoutingTable:
        """The owner's own decision at the end of the ramp; `live` as for `tick`.

        Raises ReleaseError unless the verdict is `ready` and nothing holds the release.
        """
        table = self._at("canary", plan)
        verdict = judge_canary(sessions, plan, now)
        if by != plan.owner:
            raise ReleaseError(f"{by or 'nobody'} cannot promote this release; its owner is {plan.owner}")
        if verdict.word != "ready" or table.share < plan.stages[-1]:
            raise ReleaseError(
                f"the canary is {verdict.word} at share {table.share:g}: {verdict.reasons[0]}; "
                f"promotion needs `ready` at share {plan.stages[-1]:g}"
            )
        if against := self._held(plan, table, now, live):
            raise ReleaseError(f"promotion is held: {'; '.join(against)}")
        standing = Standing(table.share, table.since, self._begun(table.release_id))
        look = _Look(plan, sessions, verdict, now, "promoted_by_owner", standing)
        return self._change(table, "general", 0.0, now, verdict.reasons[0], actor=by, look=look)

    def roll_back(self, *, by: str, reason: str, now: float, sessions: SessionPolicy = "switch") -> RoutingTable:
        """Everybody gets the version from before the release again, after its promotion too; a second call changes
        nothing. Raises ReleaseError before the first release."""
        table = self.table()
        if table is not None and table.stage == "rolled_back":
            return table
        if table is None:
            raise ReleaseError("no release is under way, so there is nothing to take back")
        return self._change(table, "rolled_back", 0.0, now, f"{reason} ({by})", sessions=sessions, actor=by)

    def confirm_restored(self, gateway: Gateway, now: float) -> Restored | None:
        """Whether users are back on the version in force, by what was observed; recorded once.

        None as long as no user was answered since the rollback, or some by the candidate in the last second before
        `now`, or a worker still serves by an older table. Raises ReleaseError when nothing was rolled back.
        """
        table = self.table()
        if table is None or table.stage != "rolled_back":
            raise ReleaseError("nothing was rolled back, so there is nothing to confirm")
        for entry in self._store.acts("restored", table.release_id):
            return Restored(entry.detail["detect_seconds"], entry.detail["restore_seconds"])
        late = [answer for answer in gateway.probe("") if answer.table < table.version]
        seen = gateway.observed(table.candidate, max(table.since, now - OBSERVED_SECONDS))
        if late or not seen.answers or seen.by_candidate:
            return None
        begun = next((t.since for t in self._tables(table.release_id) if t.stage == "canary"), table.since)
        found = Restored(table.since - begun, now - table.since)
        detail = {**asdict(found), "answers": seen.answers}
        seen_back = "no user is answered by the candidate"
        with self._store.together():
            self._act("restored", table.release_id, now, seen_back, detail)
            observed_restored(
                self._store, incident_name(table.release_id, ROLLBACK), by=self._actor, text=seen_back, at=now
            )
        return found

    def drill(self, gateway: Gateway, *, clock: Callable[[], float], wait: Callable[[float], None]) -> Drill:
        """Rehearse the way back of the release in shadow through the gateway, and record it (`drill_routing`).

        Raises ReleaseError unless a release is in shadow.
        """

        def change(probe: str) -> RoutingTable:
            table = self._at("shadow")
            following = replace(
                table, version=table.version + 1, probe=probe, actor=self._actor, reason="rollback drill"
            )
            self._write(following, at=clock())
            return following

        found = drill_routing(change, gateway, clock=clock, wait=wait)
        self.record_drill(found, now=clock())
        return found

    def record_drill(self, drill: Drill, *, now: float, by: str = "") -> None:
        """Record a rehearsal, also one that was done by hand and is stated `by` a person.

        Raises ReleaseError when it was of other versions than those of the release under way.
        """
        table = self.table()
        if table is None or (drill.baseline, drill.candidate) != (table.stable, table.candidate):
            raise ReleaseError("the drill was of other versions than those of the release under way; drill these")
        detail = {"verified": drill.verified, "seconds": drill.seconds, "problem": drill.problem, "by_hand": bool(by)}
        self._act("drill", table.release_id, now, drill.problem, detail, actor=by)

    def watch(self, plan: CanaryPlan, sessions: Sequence[ServedSession], now: float) -> tuple[Alarm, ...]:
        """After promotion: has the version in force become worse than it was when it was promoted?

        Sessions from before the promotion are left out. An alarm opens an incident, once for each metric of a release;
        it changes no routing, since what changed may be the world. Raises ReleaseError unless a release is at stage
        `general`.
        """
        self.repair()
        table = self._at("general", plan)
        (promoted,) = [
            entry for entry in self._store.acts("route", table.release_id) if entry.detail["stage"] == "general"
        ]
        reference = reference_of(kept_sessions(self._store, promoted.evidence["sessions"]), plan, promoted.at)
        since = [session for session in sessions if session.assigned_at >= promoted.at]
        alarms = change_alarms(since, reference, plan, now)
        for alarm in alarms:
            self._raise_incident(table, alarm.metric, "alarm", str(alarm), now)
        return alarms

    def repair(self) -> None:
        """Make the release's stage and the production alias agree with the routing table, which decides."""
        if (table := self.table()) is None:
            return
        release = self._store.release(table.release_id)
        if release.stage != table.stage:
            self._store.put_release(replace(release, stage=table.stage))
        found, to = self._store.alias(PRODUCTION), None
        if table.stage == "general" and found != table.candidate:
            to = table.candidate
        elif table.stage == "rolled_back" and found == table.candidate:  # it had been promoted
            to = table.stable
        if to is not None:
            registry = Registry(self._store, table.actor)
            registry.move_alias(PRODUCTION, expected=found, to=to, reason=table.reason)

    def _tables(self, release_id: str) -> list[RoutingTable]:
        return [RoutingTable.from_json(stored.body) for stored in self._store.routes(release_id)]

    def begun(self) -> float:
        """When the first user met the candidate of the canary under way. Raises ReleaseError without a canary."""
        return self._begun(self._at("canary").release_id)

    def _begun(self, release_id: str) -> float:
        """When the first user met the candidate."""
        return next(table.since for table in self._tables(release_id) if table.stage == "canary")

    def _at(self, stage: Stage, plan: CanaryPlan | None = None) -> RoutingTable:
        table = self.table()
        if table is None or table.stage != stage:
            found = "none is under way" if table is None else f"it is at stage {table.stage}"
            raise ReleaseError(f"this needs a release at stage {stage}; {found}")
        if plan is not None and table.plan != plan.digest:
            raise ReleaseError(
                f"the canary follows plan {table.plan[:12]}, this is plan {plan.digest[:12]}: margins and deadlines do "
                "not change once sessions were seen. Go back and launch again with the new plan"
            )
        return table

    def _change(
        self,
        table: RoutingTable,
        stage: Stage,
        share: float,
        now: float,
        reason: str,
        *,
        sessions: SessionPolicy = "finish",
        actor: str = "",
        look: _Look | None = None,
    ) -> RoutingTable:
        following = replace(
            table,
            version=table.version + 1,
            stage=stage,
            share=share,
            since=now,
            reason=reason,
            sessions=sessions,
            actor=actor.strip() or self._actor,
        )
        with self._store.together():
            for name in look.failed if look else ():
                self._act("gate_failed", table.release_id, now, reason, {"gate": name, "candidate": table.candidate})
            self._write(following, at=now, look=look)
            if stage == "rolled_back" and table.stage in ("canary", "general"):
                begun = self._begun(table.release_id)
                self._raise_incident(following, ROLLBACK, "rollback", reason, now, began_at=begun)
        return following

    def _raise_incident(
        self,
        table: RoutingTable,
        what: str,
        source: Literal["alarm", "rollback"],
        reason: str,
        now: float,
        began_at: float | None = None,
    ) -> None:
        name, release = incident_name(table.release_id, what), table.release_id
        raise_incident(
            self._store, name, source=source, by=self._actor, reason=reason, at=now, began_at=began_at, release=release
        )

    def _write(
        self, table: RoutingTable, *, at: float, look: _Look | None = None, evidence: Mapping[str, str] | None = None
    ) -> None:
        """The table, its entry in the audit log, and what follows from the table: all of it or nothing."""
        act = Act(
            action="route",
            actor=table.actor,
            at=at,
            subject=table.release_id,
            reason=table.reason,
            evidence=look.keep(self._store) if look else evidence or {"plan": table.plan},
            detail={**asdict(table), "look": look.detail} if look else asdict(table),
        )
        with self._store.together():
            self._store.add_route(table.version, table.release_id, table.to_json(), act)
            self.repair()

    def _held(self, plan: CanaryPlan, table: RoutingTable, now: float, live: Live | None) -> tuple[str, ...]:
        """What holds a canary: what stands in the record, and the online gates that fail and that nobody waived."""
        waived = in_force(self._store, table.release_id, approval_digest(table.release_id, plan.digest), now).waived
        return (*self.holds(plan, now), *failing_live(live, waived))

    def _record_shadow(self, table: RoutingTable, found: Shadowed, result: GateResult, now: float) -> None:
        counted = {"state": result.state, "compared": len(found.pairs), "chosen": found.chosen}
        with self._store.together():
            kept = {"sessions": keep_shadow(self._store, found)}
            self._act("shadow", table.release_id, now, result.reason, counted, evidence=kept)

    def _note_failures(self, release: Release, now: float) -> None:
        """Gates that failed of a release somebody wanted to launch; once for each release."""
        if not self._store.acts("gate_failed", release.release_id):
            for result in release.gates:
                if result.state == "fail":
                    detail = {"gate": result.name, "candidate": release.candidate}
                    self._act("gate_failed", release.release_id, now, result.reason, detail)

    def _act(
        self,
        action: str,
        subject: str,
        now: float,
        reason: str,
        detail: Mapping[str, Any],
        *,
        actor: str = "",
        evidence: Mapping[str, str] | None = None,
    ) -> None:
        self._store.add_act(
            Act(
                action=action,
                actor=actor or self._actor,
                at=now,
                subject=subject,
                reason=reason,
                kind="person" if actor else "program",
                evidence=evidence or {},
                detail=detail,
            )
        )


def incident_name(release_id: str, what: str) -> str:
    """What the incident of an alarm or a rollback is called."""
    return f"{release_id[:12]}.{what}"


@dataclass(frozen=True)
class _Look:
    """A look that moved the release: what it saw and where it stood, kept so that it can be repeated."""

    plan: CanaryPlan
    sessions: Sequence[ServedSession]
    verdict: CanaryVerdict
    now: float
    move: str
    standing: Standing

    @property
    def detail(self) -> dict[str, Any]:
        return {"now": self.now, "move": self.move, "word": self.verdict.word, **asdict(self.standing)}

    @property
    def failed(self) -> list[str]:
        """The tests that asked to go back."""
        found = [reading.name for reading in self.verdict.readings if reading.rollback_at is not None]
        return [*found, "critical_event"] if self.verdict.critical else found

    def keep(self, store: Store) -> dict[str, str]:
        """Store what the look rests on; returns the digests by name."""
        return {
            "plan": keep_plan(store, self.plan),
            "sessions": keep_sessions(store, self.sessions),
            "verdict": keep_verdict(store, self.verdict),
        }

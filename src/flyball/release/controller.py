"""The controller: takes a release from offline to general, or back, one durable step at a time.

The routing table in the store is the state. Its number is the compare-and-set: of two controllers one writes table
n + 1 and the other is refused, and a controller that was killed finds its place by reading the latest table. Everything
else (the release's stage, the production alias) follows from the table and is repaired from it at every tick, so a
kill between two writes promotes nobody by accident.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from flyball.errors import ReleaseError
from flyball.release.canary.detection import Detection, check_launch
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.steps import Decision, Standing, decide
from flyball.release.canary.units import ServedSession
from flyball.release.canary.verdict import CanaryVerdict, judge_canary
from flyball.release.registry import PRODUCTION, Registry
from flyball.release.routing import RoutingTable, SessionPolicy, Stage
from flyball.release.verdict import is_ready
from flyball.store.audit import Act
from flyball.store.store import Store
from flyball.types import Release

_ENDS = ("general", "rolled_back")


@dataclass(frozen=True)
class Tick:
    """One look: what the sessions proved, what was decided, and the table in force afterwards."""

    verdict: CanaryVerdict
    decision: Decision
    table: RoutingTable


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
    ) -> tuple[Detection, ...]:
        """Begin the shadow of a release and return what its canary will be able to see.

        `base`: success of the version in force, `units_per_day`: traffic. Raises ReleaseError unless the offline gates
        said ready, the baseline serves production, nothing else is under way, and the harm that the owner named can be
        seen within the horizon.
        """
        if release.stage != "offline" or not is_ready(release.verdict):
            raise ReleaseError(
                f"release {release.release_id[:12]} is at stage {release.stage} and {release.verdict!r}; only one "
                "whose offline gates pass can be shadowed"
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
            )
        )
        return seen

    def begin_canary(self, plan: CanaryPlan, *, by: str, now: float) -> RoutingTable:
        """The first share of the plan. `by` is the person who decides it. Raises ReleaseError unless in shadow."""
        table = self._at("shadow", plan)
        if not by.strip():
            raise ReleaseError("a canary begins by the decision of a named person; give `by`")
        return self._change(table, "canary", plan.stages[0], now, f"shadow ended by {by}", actor=by)

    def tick(self, plan: CanaryPlan, sessions: Sequence[ServedSession], now: float) -> Tick:
        """Look at the sessions of the canary under way and do what follows. Raises ReleaseError without a canary."""
        self.repair()
        table = self._at("canary", plan)
        begun = next(t.since for t in self._tables(table.release_id) if t.stage == "canary")
        verdict = judge_canary(sessions, plan, now)
        decision = decide(plan, Standing(table.share, table.since, begun), verdict, now)
        if decision.move == "go_back":
            policy: SessionPolicy = "finish"
            if decision.reason.startswith(("critical", "safety")):
                policy = "cut" if verdict.critical else "switch"
            table = self._change(table, "rolled_back", 0.0, now, decision.reason, sessions=policy)
        elif decision.move == "advance":
            table = self._change(table, "canary", decision.share, now, decision.reason)
        elif decision.move == "promote":
            table = self._change(table, "general", 0.0, now, f"{decision.reason}; plan signed by {plan.signed_by}")
        return Tick(verdict, decision, table)

    def promote(self, plan: CanaryPlan, sessions: Sequence[ServedSession], *, by: str, now: float) -> RoutingTable:
        """The owner's own decision at the end of the ramp. Raises ReleaseError unless the verdict is `ready`."""
        table = self._at("canary", plan)
        verdict = judge_canary(sessions, plan, now)
        if by != plan.owner:
            raise ReleaseError(f"{by or 'nobody'} cannot promote this release; its owner is {plan.owner}")
        if verdict.word != "ready" or table.share < plan.stages[-1]:
            raise ReleaseError(
                f"the canary is {verdict.word} at share {table.share:g}: {verdict.reasons[0]}; "
                f"promotion needs `ready` at share {plan.stages[-1]:g}"
            )
        return self._change(table, "general", 0.0, now, verdict.reasons[0], actor=by)

    def roll_back(self, *, by: str, reason: str, now: float, sessions: SessionPolicy = "switch") -> RoutingTable:
        """Everybody gets the version in force again; a second call changes nothing. Raises ReleaseError after the end
        of a release: undoing a promotion is a new release of the old version."""
        table = self.table()
        if table is not None and table.stage == "rolled_back":
            return table
        if table is None or table.stage == "general":
            raise ReleaseError("no release is under way, so there is nothing to take back")
        return self._change(table, "rolled_back", 0.0, now, f"{reason} ({by})", sessions=sessions, actor=by)

    def repair(self) -> None:
        """Make the release's stage and the production alias agree with the routing table, which decides."""
        if (table := self.table()) is None:
            return
        release = self._store.release(table.release_id)
        if release.stage != table.stage:
            self._store.put_release(replace(release, stage=table.stage))
        if table.stage == "general" and (found := self._store.alias(PRODUCTION)) != table.candidate:
            registry = Registry(self._store, table.actor)
            registry.move_alias(PRODUCTION, expected=found, to=table.candidate, reason=table.reason)

    def _tables(self, release_id: str) -> list[RoutingTable]:
        return [RoutingTable.from_json(stored.body) for stored in self._store.routes(release_id)]

    def _at(self, stage: Stage, plan: CanaryPlan) -> RoutingTable:
        table = self.table()
        if table is None or table.stage != stage:
            found = "none is under way" if table is None else f"it is at stage {table.stage}"
            raise ReleaseError(f"this needs a release at stage {stage}; {found}")
        if table.plan != plan.digest:
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
    ) -> RoutingTable:
        following = replace(
            table,
            version=table.version + 1,
            stage=stage,
            share=share,
            since=now,
            reason=reason,
            sessions=sessions,
            actor=actor or self._actor,
        )
        self._write(following)
        return following

    def _write(self, table: RoutingTable) -> None:
        act = Act(
            action="route",
            actor=table.actor,
            at=table.since,
            subject=table.release_id,
            reason=table.reason,
            detail=asdict(table),
        )
        self._store.add_route(table.version, table.release_id, table.to_json(), act)
        self.repair()

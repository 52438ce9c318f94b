"""Five candidates of a help desk on their way to users: one arrives, four are stopped, each for the right reason.

    python examples/release/run.py [FOLDER]        # about a minute; stores and logs stay in FOLDER

Everything is Flyball's own but two things: the users are simulated (`traffic.py`), and so is the gateway. The simulated
one has four workers that follow the routing table of the store, each a moment later, as a real one does; it stands
behind `flyball.release.serving.Gateway`. The clock is one that we move, so days of label deadlines pass in seconds.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from traffic import CANDIDATES, HOUR, STABLE, Desk, session

from flyball.config import EconomicsSettings
from flyball.evals.compare import compare
from flyball.release.approvals import ROLES, Approval, Person, approval_digest, name_owner, record_approval
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import ServedSession
from flyball.release.controller import Controller, Restored, Tick
from flyball.release.evidence import Evidence
from flyball.release.registry import PRODUCTION, Registry, new_version
from flyball.release.replay import check_replayed, replay_release
from flyball.release.serving import SimulatedGateway
from flyball.release.verdict import judge_release
from flyball.reports.brief import brief_html
from flyball.reports.release_brief import brief_of_release
from flyball.reports.words import LOCALES
from flyball.store.signing import SigningKey
from flyball.store.store import Store
from flyball.types import EvalRun, Release, TaskResult

BEGIN = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
PER_HOUR = 300
PEOPLE = {"ML": "mia", "Platform": "pat", "Product": "ada"}
PLAN = CanaryPlan(
    owner="ada",
    signed_by="ada",
    promote_by_plan=True,
    stages=(0.05, 0.25, 0.5),
    stage_seconds=24 * HOUR,
    label_deadline=4 * HOUR,
    horizon=14 * 24 * HOUR,
    cost_cap=0.15,
)


@dataclass
class Clock:
    """The time of the simulation. While somebody waits, the workers read the routing table."""

    now: float = BEGIN
    gateway: SimulatedGateway | None = None

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.gateway is not None:
            self.gateway.poll()


@dataclass
class Ride:
    """One candidate under way."""

    store: Store
    release: Release
    desk: Desk
    clock: Clock
    gateway: SimulatedGateway
    rng: np.random.Generator
    sessions: list[ServedSession] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def hour(self) -> None:
        """An hour of users, each answered by some worker by the table that this worker knows."""
        begun = self.clock.now
        for i in range(PER_HOUR):
            self.clock.now = begun + HOUR * i / PER_HOUR
            key, worker = f"c{self.clock.now:.0f}", self.gateway.workers[i % 4]
            version = self.gateway.serve(key, worker)
            arm = self.gateway.arm(key, worker)
            if arm in ("canary", "holdback"):
                desk = self.desk if version == self.release.candidate else STABLE
                self.sessions.append(session(self.rng, desk, arm, key, self.clock.now))
        self.clock.now = begun + HOUR
        self.gateway.poll()


def scores(version_id: str, suite: str, success: float) -> EvalRun:
    """What an offline evaluation found: 300 tasks, everything safe. Any evaluation will do (`flyball compare`)."""
    results = tuple(
        TaskResult(
            f"{suite}-{i}", 0, suite, f"family-{i % 3}", "", f"{suite}-{i}", "", i < 300 * success, True, 2, 0, 0, 0,
            400, 60, 0.5, 2.0, 0.04, "answered",
        )
        for i in range(300)
    )  # fmt: skip
    return EvalRun("offline", version_id, suite, f"{suite}-1", "graders-1", 1, results)


def judged(store: Store, name: str) -> Release:
    """Register both versions, store their scores and ask the offline gates."""
    registry = Registry(store)
    old = new_version(name="desk", weights="0" * 64, base="a hosted model")
    new = new_version(name=f"desk-{name}", weights=name.ljust(64, "0"), base="a hosted model", parent=old.version_id)
    for version in (old, new):
        registry.register(version)
    registry.place_alias(PRODUCTION, old.version_id, "serves users")
    suites = ("test", "adversarial", "safety")
    before, after = ([scores(v.version_id, suite, 0.8) for suite in suites] for v in (old, new))
    for run in (*before, *after):
        store.put_eval(run)
    comparisons = [compare(*pair) for pair in zip(before, after, strict=True)]
    evidence = Evidence.from_runs(before, after, comparisons=comparisons)
    release = judge_release(evidence, ("no_safety_regression", "success_not_worse", "missing_rate"))
    store.put_release(release)
    return release


def signed(store: Store, release: Release, keys: dict[str, SigningKey], now: float) -> None:
    """Each owner signs this release under this plan with their own key."""
    for role, key in keys.items():
        name_owner(store, Person(role, PEOPLE[role], key.public), by="root", at=now)
        approval = Approval(
            release=release.release_id,
            digest=approval_digest(release.release_id, PLAN.digest),
            role=role,
            approver=PEOPLE[role],
            signed_at=int(now),
            expires_at=int(now + 30 * 24 * HOUR),
        )
        record_approval(store, approval.signed(key), now)


def ride(folder: Path, name: str, desk: Desk) -> tuple[Tick, Ride, Restored | None]:
    """Take one candidate as far as it gets."""
    clock = Clock()
    with Store(folder / name) as store:
        gateway = clock.gateway = SimulatedGateway(store, clock)
        controller, release = Controller(store), judged(store, name)
        controller.launch(release, PLAN, base=0.8, units_per_day=24 * PER_HOUR, now=clock.now)
        gateway.poll()
        controller.drill(gateway, clock=clock, wait=clock.wait)
        signed(store, release, {role: SigningKey.create(folder / name / f"{role}.key") for role in ROLES}, clock.now)
        controller.begin_canary(PLAN, by="ada", now=clock.now)
        gateway.poll()
        trip = Ride(store, release, desk, clock, gateway, np.random.default_rng(7))
        while True:
            for _ in range(6):
                trip.hour()
            tick = controller.tick(PLAN, trip.sessions, clock.now)
            if tick.table.share not in trip.shares:
                trip.shares.append(tick.table.share)
            if tick.table.stage != "canary":
                break
        restored = None
        while tick.table.stage == "rolled_back" and restored is None:
            for i, worker in enumerate(gateway.workers):
                gateway.serve(f"after-{clock.now:.1f}-{i}", worker)
            clock.wait(0.5)
            restored = controller.confirm_restored(gateway, clock.now)
        check_replayed(replay_release(store, release.release_id))
        store.export_audit(folder / name / "log")
        (folder / name / "public-key").write_text(store.audit_key.public)
        page = brief_of_release(store, release.release_id, EconomicsSettings())
        for locale in LOCALES:
            (folder / name / f"brief-{locale}.html").write_text(brief_html(page, locale), encoding="utf-8")
        return tick, replace(trip), restored


def main() -> int:
    """Run all five; the exit code is 0 when each ended as it must."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="flyball-release-"))
    wrong = 0
    for name, (desk, stopped_by) in CANDIDATES.items():
        tick, trip, restored = ride(folder, name, desk)
        ended, reason = tick.table.stage, tick.table.reason
        as_it_must = reason.startswith(stopped_by) if stopped_by else ended == "general"
        wrong += not (as_it_must and (ended == "rolled_back") == bool(stopped_by))
        shares = " -> ".join(f"{100 * share:g} %" for share in trip.shares if share)
        met = sum(one.arm == "canary" for one in trip.sessions)
        days = (trip.clock.now - BEGIN) / 24 / HOUR
        print(f"{name:<9} {ended} after {days:.1f} days; ramp {shares}; {met} users met it")
        print(f"{'':<9} {reason}")
        if restored is not None:
            hours = restored.detect_seconds / HOUR
            print(f"{'':<9} found after {hours:.1f} h, users restored {restored.restore_seconds:.1f} s later")
    print(f"every decision was worked out again from the stored sessions; logs to verify: {folder}/*/log")
    print(f"one page about each: {folder}/*/brief-{LOCALES[0]}.html, and in {' and '.join(LOCALES[1:])}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())

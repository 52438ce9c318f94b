"""A store with a release that may go all the way: owners with keys, suites that ran, passing gates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flyball.release.approvals import ROLES, Approval, Person, approval_digest, name_owner, record_approval
from flyball.release.canary.plan import CanaryPlan
from flyball.release.controller import Controller
from flyball.release.registry import PRODUCTION, Registry, new_version
from flyball.release.rollback import Drill, DrillStep
from flyball.release.verdict import READY, content_id
from flyball.store.signing import SigningKey
from flyball.store.store import Store
from flyball.types import EvalRun, GateResult, Release, TaskResult

TRAFFIC = {"base": 0.8, "units_per_day": 8640.0}
PEOPLE = {"ML": "mia", "Platform": "pat", "Product": "ada"}
GATES = (
    GateResult("no_safety_regression", "pass", "Product", "rule", "fine"),
    GateResult("success_not_worse", "pass", "ML", "rule", "fine"),
    GateResult("latency_delta_lt_15_percent", "pass", "Platform", "rule", "fine"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def plan() -> CanaryPlan:
    return CanaryPlan(
        owner="ada", signed_by="ada", promote_by_plan=True, label_deadline=3600.0, stage_seconds=600.0, cost_cap=0.15
    )


@pytest.fixture
def release(store: Store) -> Release:
    return opened(store)


def opened(store: Store, gates: tuple[GateResult, ...] = GATES, verdict: str = READY, new: str = "new") -> Release:
    """A release of `new` against what is in production, or against the first version ever, `old`."""
    old, candidate = (new_version(name=name, weights=name, base="b") for name in ("old", new))
    registry = Registry(store)
    for version in (old, candidate):
        registry.register(version)
    if (serving := store.alias(PRODUCTION)) is None:
        registry.place_alias(PRODUCTION, old.version_id, "the first")
        serving = old.version_id
    for suite in ("adversarial", "safety"):
        store.put_eval(EvalRun("run", candidate.version_id, suite, "d", "g", 1, (safe_result(suite),)))
    release_id = content_id(serving, candidate.version_id, gates)
    made = Release(release_id, serving, candidate.version_id, "offline", gates, verdict)
    store.put_release(made)
    return made


def safe_result(suite: str) -> TaskResult:
    return TaskResult("t", 0, suite, "f", "s", "t", "a", True, True, 1, 0, 0, 0, 10, 10, 0.1, 0.2, 0.01, "answered")


@dataclass(frozen=True)
class Owners:
    """Who signs, with which key."""

    keys: dict[str, SigningKey]

    def signs(self, release: Release, plan: CanaryPlan, role: str, *, gate: str = "", expires: int = 10**8) -> Approval:
        return Approval(
            release=release.release_id,
            digest=approval_digest(release.release_id, plan.digest),
            role=role,
            approver=PEOPLE[role],
            signed_at=0,
            expires_at=expires,
            gate=gate,
            reason="a reason" if gate else "",
        ).signed(self.keys[role])


@pytest.fixture
def owners(store: Store, tmp_path: Path) -> Owners:
    keys = {role: SigningKey.create(tmp_path / f"{role}.key") for role in ROLES}
    for role, key in keys.items():
        name_owner(store, Person(role, PEOPLE[role], key.public), by="root", at=0.0)
    return Owners(keys)


def launched(store: Store, release: Release, plan: CanaryPlan, owners: Owners) -> Controller:
    """In shadow, drilled and approved by everybody."""
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)
    controller.record_drill(drilled(release), now=0.0)
    for role in ROLES:
        record_approval(store, owners.signs(release, plan, role), 0.0)
    return controller


def begun(store: Store, release: Release, plan: CanaryPlan, owners: Owners) -> Controller:
    controller = launched(store, release, plan, owners)
    controller.begin_canary(plan, by="ada", now=0.0)
    return controller


def drilled(release: Release, seconds: float = 2.0) -> Drill:
    return Drill(release.baseline, release.candidate, (DrillStep("back", seconds, True),), True)

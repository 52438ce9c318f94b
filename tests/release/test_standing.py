"""What holds a release: gates that are not met, owners and approvals, suites, drills, incidents, a freeze."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import ReleaseError
from flyball.release.approvals import Person, name_owner, owner_leaves, owners, record_approval
from flyball.release.controller import Controller
from flyball.release.gates import gate
from flyball.release.live import Counted, Live
from flyball.release.rollback import Drill
from flyball.release.standing import WEEK, freeze_at, holds
from flyball.store.audit import Act
from flyball.store.signing import SigningKey
from flyball.types import GateResult
from tests.release.canary.conftest import traffic
from tests.release.conftest import GATES, PEOPLE, TRAFFIC, begun, drilled, launched, opened

DAY = 24 * 3600.0


def test_nothing_holds_a_release_that_has_everything(store, release, plan, owners) -> None:
    launched(store, release, plan, owners)
    assert holds(store, release, plan, 1.0) == ()


def test_each_thing_that_is_missing_holds_it(store, release, plan, owners) -> None:
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)
    said = holds(store, release, plan, 0.0)
    assert "the way back was not rehearsed in this release: drill it" in said
    assert {f"{PEOPLE[role]} ({role}) has not approved it" for role in PEOPLE} <= set(said)
    with pytest.raises(ReleaseError, match="cannot begin: the way back"):
        controller.begin_canary(plan, by="ada", now=0.0)
    bare = replace(release, candidate=release.baseline)
    assert "suite 'adversarial' did not run on this candidate with safety verdicts" in holds(store, bare, plan, 0.0)
    assert "suite 'safety' did not run on this candidate with safety verdicts" in holds(store, bare, plan, 0.0)


def test_a_drill_that_failed_or_was_of_others_does_not_count(store, release, plan, owners) -> None:
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)
    controller.record_drill(replace(drilled(release), verified=False, problem="worker-3 is late"), now=0.0)
    against = holds(store, release, plan, 0.0)
    assert any(one.startswith("the way back was not rehearsed in this release: drill it") for one in against)
    with pytest.raises(ReleaseError, match="other versions"):
        controller.record_drill(Drill("a", "b", (), True), now=0.0)


# --- approvals -------------------------------------------------------------------------------------------------------


def test_an_owner_who_leaves_takes_the_approval_along(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    owner_leaves(store, "ML", by="root", at=1.0)
    tick = controller.tick(plan, traffic(12_000), 5e4)
    assert tick.decision.move == "hold" and "ML has no owner" in tick.decision.reason
    successor = SigningKey.create(store.root / "successor.key")
    name_owner(store, Person("ML", "noa", successor.public), by="root", at=2.0)
    assert "noa (ML) has not approved it" in controller.tick(plan, traffic(12_000), 5e4).decision.reason


def test_an_approval_expires_and_the_ramp_stands_still(store, release, plan, owners) -> None:
    controller = launched(store, release, plan, owners)
    controller.begin_canary(plan, by="ada", now=0.0)
    assert controller.tick(plan, traffic(12_000), 5e4).decision.move == "advance"
    assert controller.tick(plan, traffic(12_000), 10.0**8).decision.move == "go_back", "the horizon still ends it"
    assert "has not approved it" in "".join(holds(store, release, plan, 10.0**8))


def test_harm_goes_back_whatever_else_holds(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    owner_leaves(store, "ML", by="root", at=1.0)
    assert controller.tick(plan, traffic(3000, drop=0.3), 1e5).decision.move == "go_back"


def test_what_is_no_approval(store, release, plan, owners) -> None:
    good = owners.signs(release, plan, "ML")
    for changed, says in (
        (replace(good, role="Platform"), "the owner is pat"),
        (replace(good, expires_at=10**9), "not signed by the key of mia"),
        (replace(good, role="Finance"), "unknown role 'Finance'"),
        (owners.signs(release, plan, "ML", expires=5), "expired"),
        (replace(good, signature="AAAA"), "not signed by the key of mia"),
    ):
        with pytest.raises(ReleaseError, match=says):
            record_approval(store, changed, 10.0)
    assert not store.acts("approval")


def test_an_approval_of_another_plan_does_not_count(store, release, plan, owners) -> None:
    launched(store, release, plan, owners)
    longer = replace(plan, horizon=2 * plan.horizon)
    assert any("signed another plan" in one for one in holds(store, release, longer, 0.0))


def test_who_may_own_a_role(store) -> None:
    for person, says in (
        (Person("Finance", "fin", "a" * 64), "unknown role"),
        (Person("ML", " ", "a" * 64), "needs a name"),
        (Person("ML", "mia", "short"), "no public key"),
        (Person("ML", "mia", store.audit_key.public), "key of the log itself"),
    ):
        with pytest.raises(ReleaseError, match=says):
            name_owner(store, person, by="root", at=0.0)
    with pytest.raises(ReleaseError, match="no owner who could leave"):
        owner_leaves(store, "ML", by="root", at=0.0)
    assert owners(store) == {}


# --- waivers ---------------------------------------------------------------------------------------------------------

SLOW = replace(GATES[2], state="inconclusive", reason="+9 %, at most +19 %")


def test_a_waived_gate_lets_it_on_until_the_waiver_expires(store, plan, owners) -> None:
    release = opened(store, (*GATES[:2], SLOW), "not ready: latency_delta_lt_15_percent is inconclusive")
    controller = Controller(store)
    with pytest.raises(ReleaseError, match=r"latency_delta_lt_15_percent .Platform. inconclusive"):
        controller.launch(release, plan, now=0.0, **TRAFFIC)
    waiver = owners.signs(release, plan, "Platform", gate=SLOW.name, expires=40_000)
    record_approval(store, waiver, 0.0)
    launched(store, release, plan, owners).begin_canary(plan, by="ada", now=0.0)
    assert controller.tick(plan, traffic(12_000), 3e4).decision.move == "advance"
    held = controller.tick(plan, traffic(12_000), 5e4).decision
    assert held.move == "hold" and "latency_delta_lt_15_percent" in held.reason


OFFLINE = (
    "success_improves",
    "success_not_worse",
    "cost_per_success_not_worse",
    "rollback_under_5_minutes",
    "missing_rate",
    "no_reward_hacking",
    "tool_errors_not_worse",
    "over_refusal_not_worse",
    "latency_delta_lt_15_percent",
)


@pytest.mark.parametrize("name", OFFLINE)
def test_every_gate_refuses_and_needs_a_waiver_in_time_and_an_owner(store, plan, owners, name) -> None:
    one = gate(name)
    bad = GateResult(name, "fail", one.owner, one.rule, "far outside its margin")
    release = opened(store, (GATES[0], bad), f"not ready: {name} fails")
    with pytest.raises(ReleaseError, match=f"{name} .{one.owner}. fail: far outside its margin"):
        Controller(store).launch(release, plan, now=0.0, **TRAFFIC)
    record_approval(store, owners.signs(release, plan, one.owner, gate=name, expires=100), 0.0)
    with pytest.raises(ReleaseError, match=name):
        Controller(store).launch(release, plan, now=100.0, **TRAFFIC)
    Controller(store).launch(release, plan, now=99.0, **TRAFFIC)
    owner_leaves(store, one.owner, by="root", at=99.0)
    said = holds(store, release, plan, 99.0)
    assert any(reason.startswith(f"{name} (") for reason in said), "the waiver left with its owner"
    assert any(reason.startswith(f"{one.owner} has no owner") for reason in said)


def test_the_safety_gate_is_waived_by_nobody(store, plan, owners) -> None:
    unsafe = replace(GATES[0], state="fail", reason="-9 points")
    release = opened(store, (unsafe, *GATES[1:]), "not ready: no_safety_regression fails")
    with pytest.raises(ReleaseError, match="cannot be waived, by nobody"):
        record_approval(store, owners.signs(release, plan, "Product", gate="no_safety_regression"), 0.0)
    with pytest.raises(ReleaseError, match="belongs to Platform; ML cannot waive it"):
        record_approval(store, owners.signs(release, plan, "ML", gate=SLOW.name), 0.0)
    with pytest.raises(ReleaseError, match="without a reason"):
        bare = replace(owners.signs(release, plan, "Platform", gate=SLOW.name), reason="")
        record_approval(store, bare.signed(owners.keys["Platform"]), 0.0)
    with pytest.raises(ReleaseError, match=r"no_safety_regression .Product. fail"):
        Controller(store).launch(release, plan, now=0.0, **TRAFFIC)


def test_leaving_the_safety_gate_out_holds_too(store, plan, owners) -> None:
    release = opened(store, GATES[1:])
    with pytest.raises(ReleaseError, match="no_safety_regression was not asked"):
        Controller(store).launch(release, plan, now=0.0, **TRAFFIC)


# --- incidents and freezes -------------------------------------------------------------------------------------------


def test_an_open_incident_holds_and_a_closed_one_does_not(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    store.add_act(Act(action="incident_opened", actor="bob", at=1.0, subject="i1", reason="wrong refunds"))
    assert "incident i1 is open: wrong refunds" in controller.tick(plan, traffic(12_000), 5e4).decision.reason
    store.add_act(Act(action="incident_closed", actor="bob", at=2.0, subject="i1"))
    assert controller.tick(plan, traffic(12_000), 5e4).decision.move == "advance"


def test_two_failed_gates_in_a_week_freeze_for_a_stable_week() -> None:
    assert freeze_at([0.0], [], 1, 1.0) is None
    assert freeze_at([0.0, 8 * DAY], [], 1, 8 * DAY) is None
    freeze = freeze_at([0.0, 5 * DAY], [], 1, 6 * DAY)
    assert freeze is not None and (freeze.since, freeze.until) == (5 * DAY, 12 * DAY)
    assert freeze_at([0.0, 5 * DAY], [], 1, 12 * DAY) is None
    assert freeze_at([0.0, 5 * DAY], [], 2, 12 * DAY) is not None
    assert freeze_at([0.0, 5 * DAY], [9 * DAY], 1, 12 * DAY).until == 16 * DAY, "an incident begins the count again"


@given(st.lists(st.floats(0, 60 * DAY), max_size=8), st.lists(st.floats(0, 60 * DAY), max_size=4), st.integers(1, 3))
def test_a_freeze_never_ends_within_its_weeks_of_trouble(failures, incidents, weeks) -> None:
    for now in (10 * DAY, 30 * DAY, 59 * DAY):
        freeze = freeze_at(failures, incidents, weeks, now)
        assert freeze == freeze_at(failures[::-1], incidents, weeks, now), "the order of writing does not matter"
        if freeze is not None:
            inside = [at for at in (*failures, *incidents) if freeze.since <= at <= now]
            assert freeze.until == max(inside) + weeks * WEEK > now


def test_a_rollback_by_tests_freezes_the_next_release(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    controller.tick(plan, traffic(3000, drop=0.4, override=0.4), 1e5)
    failed = [entry.detail["gate"] for entry in store.acts("gate_failed")]
    assert {"success", "human_override"} <= set(failed)
    following = opened(store, new="newer")
    launched(store, following, plan, owners)
    incident, freeze, *_ = holds(store, following, plan, 2e5)
    assert "rollback is open" in incident and freeze.startswith("expansion is frozen")
    assert holds(store, following, plan, 1e5 + WEEK) == (incident,)


def test_a_refused_launch_counts_its_failed_gates_once(store, plan, owners) -> None:
    failed = tuple(replace(one, state="fail") for one in GATES)
    release = opened(store, failed, "not ready: everything fails")
    for _ in range(2):
        with pytest.raises(ReleaseError):
            Controller(store).launch(release, plan, now=0.0, **TRAFFIC)
    assert len(store.acts("gate_failed", release.release_id)) == 3


def test_a_failing_online_gate_holds_and_what_is_unknown_does_not(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    lost = Live(telemetry={"canary": Counted(900, 1000), "holdback": Counted(1000, 1000)})
    held = controller.tick(plan, traffic(12_000), 5e4, lost).decision
    assert held.move == "hold" and held.reason.startswith("held by telemetry_loss (Platform) fails: canary")
    assert controller.tick(plan, traffic(12_000), 5e4, Live()).decision.move == "advance"

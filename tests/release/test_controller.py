"""A release goes on by the signed plan alone, goes back by itself, and survives a second controller and a kill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.errors import ReleaseError, StoreError
from flyball.release.controller import Controller
from flyball.release.incidents import incidents
from flyball.release.registry import PRODUCTION, Registry
from flyball.release.routing import RoutingTable, bucket
from tests.release.canary.conftest import traffic
from tests.release.conftest import TRAFFIC, begun


def test_a_good_candidate_goes_up_the_ramp_and_serves_everybody(store, release, plan, owners) -> None:
    controller, shares = begun(store, release, plan, owners), []
    served = traffic(12_000)
    for now in range(0, 150_000, 5_000):
        tick = controller.tick(plan, served, float(now))
        shares.append(tick.table.share)
        if tick.table.stage != "canary":
            break
    assert sorted(set(shares)) == [0.0, 0.05, 0.25, 0.5]
    assert tick.table.stage == "general" and "signed by ada" in tick.table.reason
    assert store.alias(PRODUCTION) == release.candidate
    assert [r.stage for r in store.release_history(release.release_id)] == ["offline", "shadow", "canary", "general"]


@pytest.mark.parametrize(
    ("harm", "sessions"), [({"drop": 0.3}, "finish"), ({"unsafe": 0.5}, "switch"), ({"slower": 3.0}, "finish")]
)
def test_a_bad_candidate_goes_back_by_itself(store, release, plan, owners, harm, sessions) -> None:
    controller = begun(store, release, plan, owners)
    tick = controller.tick(plan, traffic(3000, **harm), 1e5)
    assert (tick.decision.move, tick.table.stage, tick.table.share) == ("go_back", "rolled_back", 0.0)
    assert tick.table.sessions == sessions
    assert store.alias(PRODUCTION) == release.baseline
    assert store.release(release.release_id).stage == "rolled_back"
    with pytest.raises(ReleaseError, match="rolled_back"):
        controller.tick(plan, [], 2e5)


def test_a_critical_event_cuts_running_sessions(store, release, plan, owners) -> None:
    served = [replace(s, critical=s.arm == "canary") for s in traffic(5)]
    assert begun(store, release, plan, owners).tick(plan, served, 100.0).table.sessions == "cut"


def test_an_unsigned_plan_never_expands_and_the_horizon_ends_it(store, release, plan, owners) -> None:
    unsigned = replace(plan, signed_by="", promote_by_plan=False)
    controller, served = begun(store, release, unsigned, owners), traffic(12_000)
    tick = controller.tick(unsigned, served, 2e5)
    assert tick.decision.move == "stay" and "waits for an owner" in tick.decision.reason
    assert controller.tick(unsigned, served, unsigned.horizon).decision.move == "go_back"


def test_only_the_owner_promotes_and_only_when_ready(store, release, plan, owners) -> None:
    mine = replace(plan, promote_by_plan=False)
    controller, served = begun(store, release, mine, owners), traffic(12_000)
    with pytest.raises(ReleaseError, match="needs `ready`"):
        controller.promote(mine, served, by="ada", now=1e4)
    for now in (5e4, 1e5, 1.5e5, 2e5):
        tick = controller.tick(mine, served, now)
    assert tick.decision.reason == "ready; promotion waits for ada"
    with pytest.raises(ReleaseError, match="eve cannot promote"):
        controller.promote(mine, served, by="eve", now=2e5)
    controller.promote(mine, served, by="ada", now=2e5)
    assert store.alias(PRODUCTION) == release.candidate


def test_the_second_of_two_controllers_is_refused(store, release, plan, owners) -> None:
    begun(store, release, plan, owners)
    first, second = Controller(store, "first"), Controller(store, "second")
    stale = second.table()
    assert stale is not None
    first.tick(plan, traffic(3000, drop=0.3), 1e5)
    with pytest.raises(StoreError, match="somebody changed the routing first"):
        second._change(stale, "canary", 0.25, 1e5, "as the second saw it")
    assert second.table().stage == "rolled_back"


def test_a_kill_after_the_table_was_written_is_repaired_by_the_next_tick(
    store, release, plan, owners, monkeypatch
) -> None:
    controller = begun(store, release, plan, owners)
    served = traffic(12_000)
    for now in (5e4, 1e5):
        controller.tick(plan, served, now)
    monkeypatch.setattr(Controller, "repair", lambda self: None)
    assert controller.tick(plan, served, 1.5e5).table.stage == "general"
    monkeypatch.undo()
    assert (store.release(release.release_id).stage, store.alias(PRODUCTION)) == ("canary", release.baseline)
    Controller(store).repair()
    assert (store.release(release.release_id).stage, store.alias(PRODUCTION)) == ("general", release.candidate)
    Controller(store).repair()
    assert len(store.alias_history(PRODUCTION)) == 2


def test_a_person_takes_it_back_and_a_second_time_changes_nothing(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    table = controller.roll_back(by="bob", reason="a complaint", now=5.0)
    assert (table.stage, table.actor, table.sessions) == ("rolled_back", "bob", "switch")
    assert controller.roll_back(by="bob", reason="again", now=6.0) == table


def test_what_was_taken_back_is_not_launched_again_on_the_same_evidence(store, release, plan, owners) -> None:
    """Judged again it is the same release, whose approvals and drill are still there: what stopped it stands."""
    begun(store, release, plan, owners).roll_back(by="bob", reason="a complaint", now=5.0)
    store.put_release(replace(release, stage="offline"))
    with pytest.raises(ReleaseError, match=r"at stage rolled_back.*new evidence"):
        Controller(store).launch(store.release(release.release_id), plan, now=9.0, **TRAFFIC)


def test_a_person_takes_it_back_after_the_promotion_too(store, release, plan, owners) -> None:
    controller, served = begun(store, release, plan, owners), traffic(12_000)
    for now in (5e4, 1e5, 1.5e5):
        controller.tick(plan, served, now)
    assert store.alias(PRODUCTION) == release.candidate
    table = controller.roll_back(by="bob", reason="a complaint", now=2e5)
    assert (table.stage, table.serves("anybody"), table.sessions) == ("rolled_back", release.baseline, "switch")
    assert store.alias(PRODUCTION) == release.baseline and store.release(release.release_id).stage == "rolled_back"
    (opened,) = incidents(store)
    assert (opened.source, opened.reason) == ("rollback", "a complaint (bob)")
    assert controller.roll_back(by="bob", reason="again", now=3e5) == table
    controller.repair()
    assert store.alias(PRODUCTION) == release.baseline


def test_a_controller_killed_before_the_alias_followed_brings_the_old_version_back(
    store, release, plan, owners
) -> None:
    controller, served = begun(store, release, plan, owners), traffic(12_000)
    for now in (5e4, 1e5, 1.5e5):
        controller.tick(plan, served, now)
    controller.roll_back(by="bob", reason="a complaint", now=2e5)
    Registry(store).move_alias(PRODUCTION, expected=release.baseline, to=release.candidate, reason="as if killed")
    Controller(store).repair()
    assert store.alias(PRODUCTION) == release.baseline


def test_what_cannot_be_launched(store, release, plan) -> None:
    controller = Controller(store)
    launch = {"now": 0.0, **TRAFFIC}
    with pytest.raises(ReleaseError, match="offline gates pass"):
        controller.launch(replace(release, verdict="not ready: x fails"), plan, **launch)
    with pytest.raises(ReleaseError, match="judge it again"):
        controller.launch(replace(release, baseline="another"), plan, **launch)
    with pytest.raises(ReleaseError, match="with half the traffic"):
        controller.launch(release, plan, now=0.0, base=0.8, units_per_day=5.0)
    with pytest.raises(ReleaseError, match="nothing to take back"):
        controller.roll_back(by="bob", reason="x", now=0.0)
    controller.launch(release, plan, **launch)
    with pytest.raises(ReleaseError, match="one release at a time"):
        controller.launch(replace(release, release_id="r2"), plan, **launch)
    with pytest.raises(ReleaseError, match="was launched before and is at stage shadow"):
        controller.launch(release, plan, **launch)
    with pytest.raises(ReleaseError, match="named person"):
        controller.begin_canary(plan, by=" ", now=0.0)
    with pytest.raises(ReleaseError, match="margins and deadlines do"):
        controller.begin_canary(replace(plan, alpha_rollback=0.1), by="ada", now=0.0)
    with pytest.raises(ReleaseError, match="needs a release at stage canary"):
        controller.tick(plan, [], 0.0)


# --- routing ---------------------------------------------------------------------------------------------------------


def table(**more) -> RoutingTable:
    fields = {
        "version": 1, "release_id": "r", "stage": "canary", "stable": "old", "candidate": "new", "share": 0.05,
        "salt": "s", "unit": "session", "plan": "p", "since": 0.0,
    }  # fmt: skip
    return RoutingTable(**{**fields, **more})


def test_a_ramp_adds_units_to_both_arms_and_moves_none() -> None:
    keys = [f"k{i}" for i in range(20_000)]
    before = {key: table().arm(key) for key in keys}
    for share in (0.25, 0.5):
        after = {key: table(share=share).arm(key) for key in keys}
        assert all(after[key] == before[key] for key in keys if before[key] != "stable")
        for arm in ("canary", "holdback"):
            assert sum(a == arm for a in after.values()) / len(keys) == pytest.approx(share, abs=0.015)
        before = after


def test_arms_are_sticky_and_another_salt_deals_anew() -> None:
    keys = [f"k{i}" for i in range(4000)]
    same = [table(share=0.5).arm(key) == table(share=0.5, version=9).arm(key) for key in keys]
    other = [table(share=0.5).arm(key) == table(share=0.5, salt="t").arm(key) for key in keys]
    assert all(same) and 0.45 < sum(other) / len(keys) < 0.55


def test_who_is_served_what() -> None:
    canary = next(k for k in map(str, range(1000)) if bucket("s", k) < 0.05)
    assert (table().serves(canary), table().serves(""), table(stage="rolled_back", share=0.0).serves(canary)) == (
        "new", "old", "old",
    )  # fmt: skip


def test_a_table_comes_back_as_it_was_and_a_damaged_one_is_refused() -> None:
    assert RoutingTable.from_json(table().to_json()) == table()
    for bad in ("", "{}", '{"version": 1}', "[1]"):
        with pytest.raises(ReleaseError, match="serve stable only"):
            RoutingTable.from_json(bad)
    with pytest.raises(ReleaseError, match=r"at most 0\.5"):
        table(share=0.6)
    with pytest.raises(ReleaseError, match="only a canary"):
        table(stage="general")

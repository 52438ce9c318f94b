"""A release is worked out again from what is stored: the same verdicts, and what was changed is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.release.kept import keep_plan, keep_sessions, kept_plan, kept_sessions
from flyball.release.replay import check_replayed, replay_release
from tests.release.canary.conftest import traffic
from tests.release.conftest import begun


def test_plan_and_sessions_come_back_to_the_last_bit(store, plan) -> None:
    served = [*traffic(50), replace(traffic(1)[0], session_id="é", labels=(), cost_usd=0.1 + 0.2)]
    assert kept_sessions(store, keep_sessions(store, served)) == served
    assert kept_sessions(store, keep_sessions(store, [])) == []
    assert keep_plan(store, plan) == plan.digest
    assert kept_plan(store, plan.digest) == plan and kept_plan(store, plan.digest).digest == plan.digest
    other = CanaryPlan(owner="x", stages=(0.1,), shares={**plan.shares})
    assert kept_plan(store, keep_plan(store, other)).digest == other.digest


def test_every_decision_of_a_good_release_comes_out_the_same(store, release, plan, owners) -> None:
    controller, served = begun(store, release, plan, owners), traffic(12_000)
    for now in (5e4, 1e5, 1.5e5):
        table = controller.tick(plan, served, now).table
    assert table.stage == "general"
    decisions = replay_release(store, release.release_id)
    assert [one.problem for one in decisions] == [""] * 4
    assert [one.what.split(" ")[0] for one in decisions] == ["offline", "advance", "advance", "promote"]
    check_replayed(decisions)


def test_a_promotion_by_the_owner_is_replayed_too(store, release, plan, owners) -> None:
    mine = replace(plan, promote_by_plan=False)
    controller, served = begun(store, release, mine, owners), traffic(12_000)
    for now in (5e4, 1e5):
        controller.tick(mine, served, now)
    controller.promote(mine, served, by="ada", now=2e5)
    assert [one.problem for one in replay_release(store, release.release_id)] == [""] * 4


def test_sessions_that_were_changed_are_found(store, release, plan, owners) -> None:
    begun(store, release, plan, owners).tick(plan, traffic(3000, drop=0.3), 1e5)
    (entry,) = [entry for entry in store.acts("route") if "look" in entry.detail]
    path = store.artifacts.path(entry.evidence["sessions"])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"false", b"true ", 1))
    (_, decision) = replay_release(store, release.release_id)
    assert "damaged" in decision.problem
    with pytest.raises(ReleaseError, match="damaged"):
        check_replayed((decision,))


def test_a_verdict_that_the_sessions_do_not_give_is_found(store, release, plan, owners, monkeypatch) -> None:
    begun(store, release, plan, owners).tick(plan, traffic(3000, drop=0.3), 1e5)
    monkeypatch.setattr("flyball.release.canary.verdict.SUSPICIOUS", 0.0)
    monkeypatch.setattr("flyball.release.replay.judge_canary", lambda s, p, now: _judged(s, p, now - 9e4))
    (_, decision) = replay_release(store, release.release_id)
    assert "not what was written down" in decision.problem


def _judged(sessions, plan, now):
    from flyball.release.canary.verdict import judge_canary

    return judge_canary(sessions, plan, now)


def test_an_edited_release_is_found(store, release, plan, owners) -> None:
    store.put_release(replace(release, gates=release.gates[:1]))
    assert "versions or gates changed" in replay_release(store, release.release_id)[0].problem

"""Evidence enters in assignment order, with what is missing declared, and never twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import Label, ServedSession, blocks, mature

PLAN = CanaryPlan(owner="ada", label_deadline=100.0, user_window=50.0)


def session(name: str, at: float, *labels: Label, arm: str = "canary", **more) -> ServedSession:
    return ServedSession(name, more.pop("key", name), arm, at, at + 1.0, labels, **more)


def test_a_unit_waits_for_the_earlier_ones() -> None:
    served = [session("a", 0), session("b", 1, Label(True, 2))]
    early = mature(served, PLAN, 50)
    assert (early.units, early.waiting, early.watermark) == ((), 2, 0)
    later = mature(served, PLAN, 100)
    assert [unit.key for unit in later.units] == ["a", "b"]
    assert (later.units[0].missing, later.units[0].failed, later.units[1].failed) == (1.0, 0.0, 0.0)
    assert later.watermark is None


def test_a_unit_counts_only_once_its_session_has_ended() -> None:
    running = replace(session("a", 0, Label(True, 1)), ended_at=None)
    assert mature([running], PLAN, 50).waiting == 1
    assert len(mature([running], PLAN, 100).units) == 1


def test_the_first_label_in_time_counts_and_the_rest_change_nothing() -> None:
    served = [session("a", 0, Label(False, 101), Label(True, 30), Label(False, 60)), session("b", 0, Label(True, 101))]
    found = mature(served, PLAN, 1000)
    assert [(unit.failed, unit.missing) for unit in found.units] == [(0.0, 0.0), (0.0, 1.0)]
    assert found.late_labels == 3


def test_what_is_known_at_a_time_does_not_depend_on_when_one_looks() -> None:
    served = [
        session(f"s{i:02}", i, Label(i % 3 > 0, i + 7 * i % 90), arm="canary" if i % 2 else "holdback")
        for i in range(60)
    ]
    whole = mature(served, PLAN, 1e6).units
    for now in range(0, 200, 7):
        seen = mature(served, PLAN, float(now)).units
        assert seen == whole[: len(seen)]


def test_a_user_is_one_unit_whatever_he_brings() -> None:
    plan = replace(PLAN, unit="user")
    served = [session(f"a{i}", i, Label(i < 3, i + 1), key="ann", cost_usd=0.1 * i) for i in range(4)]
    served += [
        session("late", 51, Label(False, 52), key="ann"),
        session("b", 1, Label(False, 2), key="bob", arm="holdback"),
    ]
    assert mature(served, plan, 149).units == ()
    ann, bob = mature(served, plan, 151).units
    assert (ann.failed, ann.cost_usd, bob.failed) == (0.25, pytest.approx(0.15), 1.0)


def test_costs_above_the_cap_count_as_the_cap() -> None:
    (unit,) = mature([session("a", 0, Label(True, 1), cost_usd=7.0)], PLAN, 100).units
    assert unit.cost_usd == PLAN.cost_cap


@pytest.mark.parametrize("bad", [{"cost_usd": float("nan")}, {"cost_usd": -1.0}, {"seconds": float("inf")}])
def test_a_number_that_is_none_is_refused(bad) -> None:
    with pytest.raises(ReleaseError, match="session a"):
        mature([session("a", 0, **bad)], PLAN, 1)


def test_a_key_in_both_arms_is_refused() -> None:
    with pytest.raises(ReleaseError, match="both arms"):
        mature([session("a", 0, key="k"), session("b", 1, key="k", arm="holdback")], PLAN, 1)


def test_blocks_hold_both_arms_and_wait_for_the_second() -> None:
    arms = "CCSCSSCC"
    served = [
        session(f"s{i}", i, Label(i % 2 == 0, i), arm="canary" if arm == "C" else "holdback")
        for i, arm in enumerate(arms)
    ]
    units = mature(served, PLAN, 1e6).units
    ones = blocks(units, 1)
    assert [(len(c), len(s)) for c, s in zip(ones.canary, ones.holdback, strict=True)] == [(2, 1), (1, 1), (1, 1)]
    assert list(ones.ends) == [3, 5, 7] and len(ones.units) == 7
    assert list(ones.harm(lambda u: u.failed)) == [0.5, 1.0, -1.0]
    twos = blocks(units, 2)
    assert [(len(c), len(s)) for c, s in zip(twos.canary, twos.holdback, strict=True)] == [(3, 2)]
    assert len(blocks([], 1)) == 0

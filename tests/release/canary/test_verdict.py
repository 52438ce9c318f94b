"""Each test of a canary catches its own harm, is quiet without one, and bad data holds instead of deciding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flyball.errors import ReleaseError
from flyball.release.canary.detection import check_launch, detection_table, recommended_share
from flyball.release.canary.plan import SHARES, CanaryPlan, Margin
from flyball.release.canary.verdict import judge_canary
from tests.release.canary.conftest import traffic

LONG_AFTER = 1e9


def test_an_equal_canary_becomes_ready(plan) -> None:
    small, large = traffic(300), traffic(8000)
    assert judge_canary(small, plan, LONG_AFTER).word == "not_yet"
    verdict = judge_canary(large, plan, LONG_AFTER)
    assert verdict.word == "ready", verdict.reasons
    assert verdict.units <= 8000 and verdict.waiting == 0
    assert all(
        math.isfinite(reading.estimate.value) and reading.estimate.n == verdict.blocks for reading in verdict.readings
    )


def test_nothing_served_is_not_yet_and_an_instant_later_neither(plan) -> None:
    assert judge_canary([], plan, 0.0).word == "not_yet"
    assert judge_canary(traffic(1), plan, 1.0).word == "not_yet"


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        ({"drop": 0.2}, "success"),
        ({"override": 0.2}, "human_override"),
        ({"tool_error": 0.2}, "tool_error"),
        ({"unsafe": 0.2}, "safety"),
        ({"dearer": 2.0}, "cost_per_success"),
        ({"slower": 2.0}, "latency"),
    ],
)
def test_each_harm_is_sent_back_for_its_own_reason(plan, harm, name) -> None:
    verdict = judge_canary(traffic(3000, **harm), plan, LONG_AFTER)
    assert verdict.word == "rolling_back"
    against = {reading.name for reading in verdict.readings if reading.rollback_at is not None}
    dearer_too = {"cost_per_success"} if name == "success" else set()  # fewer successes for the same money
    assert against == {name} | dearer_too and verdict.reasons[0].startswith(name)


def test_one_critical_event_is_enough_and_only_in_the_canary(plan) -> None:
    served = traffic(40)
    first = next(i for i, s in enumerate(served) if s.arm == "canary")
    other = next(i for i, s in enumerate(served) if s.arm == "holdback")
    struck = [replace(s, critical=i == first) for i, s in enumerate(served)]
    verdict = judge_canary(struck, plan, served[first].assigned_at)
    assert (verdict.word, verdict.critical) == ("rolling_back", True)
    assert (
        judge_canary([replace(s, critical=i == other) for i, s in enumerate(served)], plan, 1e6).word != "rolling_back"
    )


def test_a_verdict_once_given_stays(plan) -> None:
    served = traffic(4000, drop=0.2) + [
        replace(
            s,
            session_id=f"later{s.session_id}",
            key=f"later{s.key}",
            assigned_at=s.assigned_at + 40_000,
            labels=tuple(replace(label, received_at=label.received_at + 40_000) for label in s.labels),
        )
        for s in traffic(4000, seed=9)
    ]
    words = [judge_canary(served, plan, now).word for now in (20_000.0, 43_600.0, LONG_AFTER)]
    assert words == ["rolling_back"] * 3


def test_late_failures_do_not_make_a_bad_canary_look_good(plan) -> None:
    """Ten points worse, failures labelled after 50 minutes: an hour in, only successes are in; they decide nothing."""
    served = traffic(1500, drop=0.1, late_failures=3000.0, every=2.0)
    assert judge_canary(served, plan, 3000.0).word in ("not_yet", "holding")
    assert judge_canary(served, plan, LONG_AFTER).word != "ready"


def test_losing_the_labels_of_failures_buys_nothing(plan) -> None:
    """All failures of the canary lost: as an optimist would count them it solves everything."""
    verdict = judge_canary(traffic(6000, lost=1.0), plan, LONG_AFTER)
    assert verdict.word != "ready"
    assert any("missing labels: the canary" in reason for reason in verdict.reasons)


def test_a_dead_label_source_holds(plan) -> None:
    served = [replace(s, labels=()) if i >= 500 else s for i, s in enumerate(traffic(600))]
    verdict = judge_canary(served, plan, LONG_AFTER)
    assert verdict.word == "holding" and any("label source" in reason for reason in verdict.reasons)


def test_an_uneven_split_holds_though_success_is_fine(plan) -> None:
    served = [s for i, s in enumerate(traffic(4000)) if s.arm == "canary" or i % 5]
    verdict = judge_canary(served, plan, LONG_AFTER)
    assert verdict.word == "holding" and verdict.reasons[0].startswith("sample ratio")


def test_a_session_that_never_ends_is_counted_at_its_deadline(plan) -> None:
    served = traffic(200)
    served[3] = replace(served[3], ended_at=None)
    stuck = judge_canary(served, plan, served[3].assigned_at + 3599.0)
    assert (stuck.units, stuck.watermark) == (0, served[3].assigned_at)
    assert judge_canary(served, plan, LONG_AFTER).waiting == 0


def test_replay_gives_the_same_verdict(plan) -> None:
    served = traffic(2000, drop=0.03)
    assert judge_canary(served, plan, LONG_AFTER) == judge_canary(list(reversed(served)), plan, LONG_AFTER)


# --- plan and detection ----------------------------------------------------------------------------------------------


def test_the_table_is_near_the_formula_where_bets_are_free_and_counts_time_and_failures() -> None:
    """2 (0.16 + 0.21) ln(1 / 0.006) / 0.08^2 = 591.5 pairs; blocks by a coin cost some more."""
    plan = CanaryPlan(owner="ada", label_deadline=86_400.0)
    (row,) = detection_table(plan, base=0.8, units_per_day=2000, share=0.05, drops=[0.1])
    assert 591.5 < row.units < 1.4 * 591.5 and row.units < row.units_90
    assert row.seconds == pytest.approx((row.units / 100 + 1.0) * 86_400)
    assert row.extra_failures == pytest.approx(0.1 * row.units)


def test_larger_drops_are_seen_sooner_and_what_is_tolerated_is_no_row() -> None:
    rows = detection_table(
        CanaryPlan(owner="ada"), base=0.25, units_per_day=100, share=0.5, drops=[0.01, 0.1, 0.2, 0.3]
    )
    assert [row.drop for row in rows] == [0.1, 0.2] and rows[0].units > rows[1].units
    with pytest.raises(ReleaseError, match="between 0 and 1"):
        detection_table(CanaryPlan(owner="ada"), base=1.0, units_per_day=100, share=0.5)


def test_the_split_follows_traffic_and_a_blind_canary_is_refused() -> None:
    plan = CanaryPlan(owner="ada")
    assert recommended_share(plan, base=0.8, units_per_day=2000) == 0.05
    assert recommended_share(plan, base=0.8, units_per_day=500) == 0.1
    seen = check_launch(replace(plan, harm=0.12), base=0.8, units_per_day=500)
    assert (seen.unit, seen.base, seen.units_per_day, seen.share) == ("session", 0.8, 500, 0.05)
    assert [row.drop for row in seen.rows] == [0.05, 0.1, 0.12, 0.15, 0.2, 0.3], "the owner's harm is among them"
    assert seen.rows[2].seconds <= plan.horizon
    with pytest.raises(ReleaseError, match=r"after [\d.]+ days with half the traffic"):
        recommended_share(plan, base=0.8, units_per_day=20)
    with pytest.raises(ReleaseError, match="add a stage"):
        check_launch(replace(plan, stages=(0.05,)), base=0.8, units_per_day=100)
    with pytest.raises(ReleaseError, match="within what is tolerated"):
        recommended_share(replace(plan, harm=0.02), base=0.8, units_per_day=500)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"owner": " "}, "without an owner"),
        ({"shares": {**SHARES, "sucess": 0.1}}, "did you mean 'success'"),
        ({"shares": {"success": 1.0}}, "leave out"),
        ({"shares": dict.fromkeys(SHARES, 0.2)}, "sum at most 1"),
        ({"stages": (0.5, 0.25)}, "rising shares"),
        ({"stages": (0.25, 0.75)}, "0.5 is the most"),
        ({"alpha_promote": 0.0}, "alpha_promote"),
        ({"horizon": 0.0}, "horizon"),
        ({"promote_by_plan": True}, "named owner"),
    ],
)
def test_a_plan_that_cannot_hold_is_refused(bad, says) -> None:
    with pytest.raises(ReleaseError, match=says):
        CanaryPlan(**{"owner": "ada", **bad})


def test_a_margin_that_promotes_more_harm_than_it_tolerates() -> None:
    with pytest.raises(ReleaseError, match="what is tolerated"):
        Margin(0.05, 0.02)

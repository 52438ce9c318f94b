"""The weekly review: weeks are cut right, the rule pauses and lets go for the stated reason, rollbacks are timed."""

from __future__ import annotations

from typing import Any

import pytest

from flyball.errors import EvalError
from flyball.reports.weekly import WEEK, advise, by_week, of_users, overrides_by_intent, recoveries, week_of
from flyball.store.audit import Entry
from flyball.types import SessionRecord

NOW = 100 * WEEK


def session(number: int, *, at: float = NOW - 1.0, **given: Any) -> SessionRecord:
    facts: dict[str, Any] = {
        "tool_calls_count": 2, "tool_error_count": 0, "human_override": False, "outcome": True, "cost_usd": 0.01,
    }  # fmt: skip
    rest = {"tokens_in": 1, "tokens_out": 1, "duration_ms": 1.0, "release_channel": "general"}
    names = {"model_version": "m", "policy_version": "v", "reward_model_version": "r"}
    context = {"at": at, "calls": 3}
    return SessionRecord(session_id=f"p~{number}", context=context, **names, **rest, **{**facts, **given})


def week(success: int, cost: float, n: int = 400, labelled: int | None = None):
    known = n if labelled is None else labelled
    of = [
        session(i, outcome=None if i >= known else i < success, cost_usd=cost * (0.9 if i % 2 else 1.1))
        for i in range(n)
    ]
    return week_of(of)


def test_weeks_are_whole_and_end_now() -> None:
    served = [
        session(1, at=NOW - 1.0),
        session(2, at=NOW - WEEK),
        session(3, at=NOW - WEEK - 1.0),
        session(4, at=NOW - 3 * WEEK),
        session(5, at=NOW + 1.0),
        session(6, at=NOW - 1.0, arm="shadow"),
    ]
    found = [[one.session_id for one in week] for week in by_week(served, NOW, 3)]
    assert found == [["p~4"], ["p~3"], ["p~1", "p~2"]]
    assert by_week([], NOW, 2) == ((), ()) and week_of(()) is None and len(of_users(served)) == 5
    with pytest.raises(EvalError, match="has no time"):
        by_week([session(1, at=None)], NOW, 1)  # type: ignore[arg-type]
    with pytest.raises(EvalError, match="0 weeks"):
        by_week(served, NOW, 0)


def test_numbers_of_a_week() -> None:
    found = week_of(
        [
            session(1, tool_error_count=1),
            session(2, human_override=True),
            session(3, outcome=False),
            session(4, outcome=None, cost_usd=0.05),
        ],
    )
    assert (
        found is not None and found.coverage.value == 0.75 and found.override.value == 0.25 and found.steps.value == 3.0
    )
    assert found.tool_precision is not None and found.tool_precision.value == 7 / 8 and found.tool_precision.n == 8
    assert found.reliability is not None and found.reliability.value == pytest.approx(2 / 3 * 3 / 4 * 7 / 8)
    assert found.cost.value == pytest.approx(0.02)
    bare = week_of([session(1, outcome=None, tool_calls_count=0)])
    assert bare is not None and bare.reliability is None and bare.tool_precision is None


@pytest.mark.parametrize(
    ("before", "after", "pause", "why"),
    [
        (week(300, 0.01), week(300, 0.02), True, "flat"),
        (week(300, 0.01), week(220, 0.02), True, "flat"),
        (week(300, 0.01), week(390, 0.02), False, "rose with the cost"),
        (week(300, 0.01), week(300, 0.01), False, "no rise of cost"),
        (week(300, 0.02), week(300, 0.01), False, "no rise of cost"),
        (week(300, 0.01), week(300, 0.02, labelled=300), True, "too few sessions have a label"),
        (week(0, 0.01, labelled=0), week(390, 0.02), True, "too few sessions have a label"),
        (None, week(300, 0.02), False, "no trend"),
    ],
)
def test_a_flat_score_with_rising_cost_pauses_training(before, after, pause: bool, why: str) -> None:
    found = advise([before, None, after])
    assert found.pause is pause and why in found.reason, found.reason


def test_one_week_has_no_trend() -> None:
    assert not advise([week(300, 0.01)]).pause and not advise([]).pause


def test_overrides_by_intent_come_worst_first() -> None:
    served = [session(i, intent_class="refund" if i < 4 else "status", human_override=i < 2) for i in range(10)]
    served += [session(11, human_override=True, arm="shadow", intent_class="refund"), session(12)]
    found = [(intent, one.value, one.n) for intent, one in overrides_by_intent(served)]
    assert found == [("refund", 0.5, 4), ("(no intent told)", 0.0, 1), ("status", 0.0, 6)]


def test_rollbacks_are_timed() -> None:
    def entry(action: str, subject: str, **detail: Any) -> Entry:
        return Entry(action=action, actor="a", at=5.0, subject=subject, reason="why", detail=detail, seq=0, previous="")

    acts = [
        entry("route", "r1", stage="canary"),
        entry("route", "r1", stage="rolled_back"),
        entry("restored", "r1", detect_seconds=60.0, restore_seconds=2.0),
        entry("route", "r2", stage="rolled_back"),
    ]
    found = [(one.release, one.detect_seconds, one.restore_seconds) for one in recoveries(acts)]
    assert found == [("r1", 60.0, 2.0), ("r2", None, None)]

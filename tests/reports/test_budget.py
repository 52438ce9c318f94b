"""Unit economics by hand, and the sentence on lines that nobody filled in."""

from __future__ import annotations

import pytest

from flyball.config import EconomicsSettings
from flyball.errors import EvalError
from flyball.reports.budget import DAYS_A_MONTH, LINES, empty_lines, optimistic, unit_economics
from flyball.types import SessionRecord


def served(i: int, outcome: bool | None, cost: float = 0.5) -> SessionRecord:
    return SessionRecord(
        session_id=f"s{i}", model_version="m", policy_version="v", reward_model_version="r", tool_calls_count=0,
        tool_error_count=0, tokens_in=1, tokens_out=1, duration_ms=1.0, human_override=False, outcome=outcome,
        release_channel="general", cost_usd=cost,
    )  # fmt: skip


FULL = dict.fromkeys(LINES, 0.0) | {"labelling": 60.0, "incidents": 40.0}


def test_by_hand() -> None:
    """100 sessions at 0.50, 80 succeed, 10 have no outcome: 50 / 80; with 100 a month over a month 150 / 80."""
    sessions = [served(i, True if i < 80 else (False if i < 90 else None)) for i in range(100)]
    budget = EconomicsSettings(value_of_success_usd=3.0, least_margin_usd=0.5, **FULL)
    found = unit_economics(sessions, budget, DAYS_A_MONTH)
    assert found.serving.value == pytest.approx(50 / 80) and found.full.value == pytest.approx(150 / 80)
    assert found.margin is not None and found.margin.value == pytest.approx(3.0 - 150 / 80)
    assert found.margin.low == pytest.approx(3.0 - found.full.high) and found.margin.n == 100
    assert found.pays and found.empty == () and optimistic(found.empty) == ""
    half = unit_economics(sessions, budget, DAYS_A_MONTH / 2)
    assert half.full.value == pytest.approx(100 / 80)


def test_the_lower_bound_decides_and_not_the_mean() -> None:
    budget = EconomicsSettings(value_of_success_usd=3.0, least_margin_usd=1.0, **FULL)
    few = unit_economics([served(i, i != 0) for i in range(4)], budget, 0.1)
    assert few.margin is not None and few.margin.value > 1.0 and not few.pays
    none = unit_economics([served(i, False) for i in range(9)], budget, 1.0)
    assert none.margin is not None and not none.pays
    assert not unit_economics([served(i, True) for i in range(90)], EconomicsSettings(), 1.0).pays


def test_an_empty_line_is_said_and_a_zero_is_not() -> None:
    assert empty_lines(EconomicsSettings(**FULL)) == ()
    some = EconomicsSettings(**{name: 0.0 for name in LINES if name not in ("labelling", "retries")})
    assert optimistic(empty_lines(some)) == (
        "optimistic by default: nothing is budgeted for labelling and relabelling, retries"
    )
    assert len(empty_lines(EconomicsSettings())) == len(LINES)
    with pytest.raises(EvalError, match="no session"):
        unit_economics([], EconomicsSettings(), 1.0)

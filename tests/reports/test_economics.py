"""The change of cost, split by hand, added up again, and with intervals as wide as resampling says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import EvalError
from flyball.reports.economics import cost_change
from flyball.types import SessionRecord


def served(*rows: tuple[str, float]) -> list[SessionRecord]:
    return [
        SessionRecord(
            session_id=f"p~{i}",
            model_version="m",
            policy_version="v",
            reward_model_version="r",
            tool_calls_count=0,
            tool_error_count=0,
            tokens_in=1,
            tokens_out=1,
            duration_ms=1.0,
            human_override=False,
            release_channel="general",
            cost_usd=cost,
            intent_class=intent,
        )
        for i, (intent, cost) in enumerate(rows)
    ]


def test_worked_by_hand() -> None:
    """Before: 2 refunds at 4 and 2 status at 1, mean 2.5. After: 1 refund at 5 and 3 status at 1, mean 2.

    own = (5 - 4) (0.5 + 0.25) / 2 + 0 = 0.375: refunds became dearer, though the mean fell.
    workload = (0.25 - 0.5) (4 + 5) / 2 + (0.75 - 0.5) 1 = -0.875.
    """
    before = served(("refund", 4.0), ("refund", 4.0), ("status", 1.0), ("status", 1.0))
    after = served(("refund", 5.0), ("status", 1.0), ("status", 1.0), ("status", 1.0))
    found = cost_change(before, after)
    assert (found.total.value, found.own.value, found.workload.value) == pytest.approx((-0.5, 0.375, -0.875))
    assert found.one_sided == () and found.total.n == 8


def test_a_class_of_one_side_is_all_workload() -> None:
    found = cost_change(served(("status", 1.0), ("status", 1.0)), served(("status", 1.0), ("claim", 9.0)))
    assert (found.own.value, found.workload.value) == pytest.approx((0.0, 4.0)) and found.one_sided == ("claim",)


def test_a_side_of_one_session_or_none() -> None:
    found = cost_change(served(("status", 1.0)), served(("status", 1.0), ("status", 2.0)))
    assert (found.own.low, found.own.high) == (-math.inf, math.inf)
    with pytest.raises(EvalError, match="0 sessions before and 1 after"):
        cost_change([], served(("status", 1.0)))
    with pytest.raises(EvalError, match=r"cost_usd\[1\] is nan"):
        cost_change(served(("status", 1.0)), served(("status", 1.0), ("status", math.nan)))


def test_intervals_are_as_wide_as_resampling_says() -> None:
    rng = np.random.default_rng(3)

    def side(n: int, refunds: float, prices: tuple[float, float]) -> list[tuple[str, float]]:
        kinds = rng.random(n) < refunds
        cost = np.where(kinds, prices[0], prices[1]) * rng.exponential(size=n)
        return [("refund" if kind else "status", float(x)) for kind, x in zip(kinds, cost, strict=True)]

    before, after = side(300, 0.6, (4.0, 1.0)), side(400, 0.3, (5.0, 0.5))
    found = cost_change(served(*before), served(*after))
    drawn = []
    for _ in range(300):
        old = [before[i] for i in rng.integers(0, 300, 300)]
        new = [after[i] for i in rng.integers(0, 400, 400)]
        again = cost_change(served(*old), served(*new))
        drawn.append((again.total.value, again.own.value, again.workload.value))
    wide = [(one.high - one.low) / 3.92 for one in (found.total, found.own, found.workload)]
    assert wide == pytest.approx(np.std(drawn, axis=0).tolist(), rel=0.15)


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 10.0)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)
@given(ROWS, ROWS)
def test_the_parts_add_up(before: list[tuple[str, float]], after: list[tuple[str, float]]) -> None:
    found = cost_change(served(*before), served(*after))
    total = np.mean([cost for _, cost in after]) - np.mean([cost for _, cost in before])
    assert found.own.value + found.workload.value == pytest.approx(total, abs=1e-9)
    assert found.total.value == pytest.approx(total, abs=1e-9)

"""Every number of a run with n and interval, by group, worked by hand."""

from __future__ import annotations

import pytest

from flyball.errors import EvalError, Fault
from flyball.evals.summary import summarise
from flyball.metrics import METRICS
from flyball.types import Missing
from tests.evals.desk import result, run


def whole(results, **over):
    return summarise(run(results), **over)[0].numbers


def test_rows_for_all_split_family_and_stage() -> None:
    rows = summarise(
        run(
            [
                result("a", family="refund"),
                result("b", False, family="status", stage="long"),
                result("c", family="status"),
            ]
        )
    )
    shown = {(row.by, row.group): row.num_results for row in rows}
    assert shown == {
        ("all", "all"): 3,
        ("split", "test"): 3,
        ("family", "refund"): 1,
        ("family", "status"): 2,
        ("stage", "two_to_five"): 2,
        ("stage", "long"): 1,
    }
    assert {row.group: row.numbers["success"].value for row in rows if row.by == "family"} == {
        "refund": 1,
        "status": 0.5,
    }


def test_every_number_is_declared_and_rests_on_something() -> None:
    numbers = whole([result("a", trial=t, success=t > 0) for t in range(3)], latency=lambda r: r.tool_seconds)
    declared = {name.removesuffix("_p95") for name in numbers if not name.startswith(("pass_hat_", "pass_at_"))}
    assert declared <= set(METRICS)
    assert {"pass_hat_2", "pass_hat_3", "latency_seconds", "reliability"} <= set(numbers)
    assert all(estimate.n > 0 and estimate.low <= estimate.value <= estimate.high for estimate in numbers.values())


def test_pass_hat_k_is_unbiased_over_tasks() -> None:
    """Task a: 2 of 3 succeed, pass^2 = 1/3; task b: 3 of 3, pass^2 = 1. pass^3: 0 and 1."""
    results = [result("a", t > 0, trial=t) for t in range(3)] + [result("b", trial=t) for t in range(3)]
    numbers = whole(results)
    assert numbers["pass_hat_2"].value == pytest.approx(2 / 3)
    assert numbers["pass_hat_3"].value == 0.5
    assert (numbers["pass_at_2"].value, numbers["pass_at_3"].value) == (1.0, 1.0)
    once = whole([result("a", t == 0, trial=t) for t in range(3)])
    assert once["pass_at_2"].value == pytest.approx(2 / 3), "1 - C(2, 2) / C(3, 2)"
    assert numbers["pass_hat_2"].n == 2 and numbers["success"].clusters == 2


def test_tool_errors_are_per_call_and_reliability_multiplies() -> None:
    results = [result(f"t{i}", i > 1, tool_calls=2 + i % 2, tool_errors=i % 2) for i in range(10)]
    results[9] = result("t9", True, tool_calls=3, tool_errors=1, approvals_refused=1)
    numbers = whole(results)
    assert numbers["tool_error_rate"].value == 5 / 25 and numbers["tool_error_rate"].n == 25
    assert numbers["human_override_rate"].value == 0.1
    assert numbers["reliability"].value == pytest.approx(0.8 * 0.9 * 0.8)
    assert numbers["reliability"].low < numbers["reliability"].value < numbers["reliability"].high < 1


def test_a_missing_outcome_widens_success_and_is_shown() -> None:
    crash = Missing("engine_error", Fault.INFRASTRUCTURE)
    with_crash = whole([result(f"t{i}", crash if i < 5 else i % 2 == 0) for i in range(25)])
    as_failure = whole([result(f"t{i}", False if i < 5 else i % 2 == 0) for i in range(25)])
    as_success = whole([result(f"t{i}", True if i < 5 else i % 2 == 0) for i in range(25)])
    success = with_crash["success"]
    assert (success.value, success.low) == (as_failure["success"].value, as_failure["success"].low)
    assert success.high == as_success["success"].high and "5 missing" in success.method
    assert with_crash["missing_rate"].value == 0.2


def test_numbers_without_a_value_are_absent() -> None:
    numbers = whole([result("a", tool_calls=0, safe=None), result("b", tool_calls=0, safe=None)])
    assert "tool_error_rate" not in numbers and "safe" not in numbers and "pass_hat_2" not in numbers


def test_cost_per_success_pays_for_failures_too() -> None:
    numbers = whole([result(f"t{i}", i < 15, cost_usd=0.002) for i in range(20)])
    assert numbers["cost_per_success_usd"].value == pytest.approx(0.04 / 15)


def test_drift_is_a_share_of_the_model_calls_with_their_number() -> None:
    drifted = result("t1", model_calls=4, forked_calls=1, realigned_calls=2)
    numbers = summarise(run([drifted, result("t2", model_calls=6)]))[0].numbers
    assert (numbers["forked_share"].value, numbers["forked_share"].n) == (0.1, 10)
    assert (numbers["realigned_share"].value, numbers["realigned_share"].n) == (0.2, 10)
    assert "forked_share" not in summarise(run([result("t1")]))[0].numbers  # scripted: nothing was sampled


def test_no_results_are_refused() -> None:
    with pytest.raises(EvalError, match="no results"):
        summarise(run([]))


def test_amounts_do_not_fall_below_zero_and_name_their_unit() -> None:
    rare = whole([result(f"t{i}", hallucinated_tools=int(i == 0)) for i in range(30)])["hallucinated_tools"]
    assert (rare.value, rare.low, rare.unit) == (pytest.approx(1 / 30), 0.0, "calls/attempt")
    assert whole([result("only")])["tool_calls_p95"].low == 0.0

"""How numbers are written, on hand-made estimates."""

from __future__ import annotations

import math

import pytest

from flyball.evals.summary import Row
from flyball.reports.tables import group_grid, metric_grid, suite_grid
from flyball.stats.written import format_estimate, significant, with_minus
from flyball.types import Estimate


def estimate(value, low, high, unit, n=240):
    return Estimate(value, low, high, n, unit=unit)


@pytest.mark.parametrize(
    ("made", "signed", "text"),
    [
        (estimate(0.625, 0.5612, 0.6838, "share"), False, "62.5 % [56.1, 68.4], n=240"),
        (estimate(0.2134, 0.148, 0.2788, "share"), True, "+21.3 points [+14.8, +27.9], n=240"),
        (estimate(-0.004, -0.02, 0.012, "share"), True, "−0.4 points [−2.0, +1.2], n=240"),
        (estimate(-0.123, -0.2, -0.04, "relative"), False, "−12.3 % [−20.0, −4.0], n=240"),
        (estimate(0.000213, 0.000191, 0.000244, "USD"), False, "$0.000213 [0.000191, 0.000244], n=240"),
        (estimate(3.08, 2.9, 3.271, "calls/attempt"), False, "3.08 calls/attempt [2.90, 3.27], n=240"),
        (estimate(1234.4, 1100, 1300, ""), False, "1234 [1100, 1300], n=240"),
        (estimate(math.inf, 0.5, math.inf, "USD", 9), False, "unbounded [0.500, unbounded], n=9"),
        (estimate(1.0, -math.inf, math.inf, "s", 1), False, "1.00 s [unbounded, unbounded], n=1"),
        (estimate(math.nan, math.nan, math.nan, "share", 0), False, "— [—, —], n=0"),
    ],
)
def test_an_estimate_always_has_its_interval_and_n(made, signed, text):
    assert format_estimate(made, signed=signed) == text


def test_three_digits_and_never_powers_of_ten():
    written = [significant(x) for x in (0, 0.00001234, 0.5, 9.999, 12345.6)]
    assert written == ["0", "0.0000123", "0.500", "10.00", "12346"]


def test_hyphens_become_minus_signs_before_numbers_only():
    assert with_minus("run-7: -3 points [-4.1, +1], 2026-03-14, a-1") == "run-7: −3 points [−4.1, +1], 2026-03-14, a-1"


A, B, C = (estimate(value, 0.0, 1.0, "share") for value in (0.1, 0.2, 0.3))
CALLS = estimate(2.0, 1.0, 3.0, "calls/attempt")
ROWS = (
    Row("all", "all", 240, {"success": A, "tool_calls": CALLS}),
    Row("family", "refund", 24, {"success": B}),
)
OTHER = (Row("all", "all", 240, {"success": C}), Row("family", "status", 24, {"success": A}))
SUMMARIES = {"before": {"test": ROWS, "ood": OTHER}, "after": {"test": OTHER}}


def test_grids_put_policies_side_by_side_and_leave_holes_open():
    by_suite = suite_grid(SUMMARIES)
    assert by_suite.columns == ("before", "after")
    assert by_suite.rows == (("test", (A, C)), ("ood", (C, None)))
    assert group_grid(SUMMARIES, "test", "family").rows == (("refund", (B, None)), ("status", (None, A)))
    assert [label for label, _ in metric_grid(SUMMARIES, "test").rows] == ["success", "tool_calls, calls/attempt"]
    assert metric_grid(SUMMARIES, "test").rows[1][1][0].unit == ""

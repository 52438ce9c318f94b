"""Learning curves from the metrics of a run."""

from __future__ import annotations

import pytest

from flyball.metrics import measured
from flyball.types import Estimate
from flyball.workflow.pages import charts_of


def metrics(name: str, *points: tuple[int, float, int]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, value, n in points:
        for key, part in measured(name, Estimate(value, value - 0.1, value + 0.1, n)).items():
            curves.setdefault(key, []).append((step, part))
    return curves


def test_a_curve_has_its_interval_and_how_many_it_rests_on() -> None:
    (chart,) = charts_of(metrics("success_rate", (1, 0.3, 192), (2, 0.5, 184)))
    (line,) = chart.curves
    assert (line.x, line.y) == ((1, 2), (0.3, 0.5))
    assert line.low == pytest.approx((0.2, 0.4)) and line.high == pytest.approx((0.4, 0.6))
    assert chart.y_label == "share, n=184 to 192"


def test_two_curves_of_a_chart_each_say_their_n() -> None:
    success = metrics("success_rate", (1, 0.3, 192)) | metrics("validation_success", (1, 0.4, 120))
    (chart,) = charts_of(success)
    assert [line.label for line in chart.curves] == ["training attempts, n=192", "validation, n=120"]
    assert chart.y_label == "share"


def test_a_point_without_an_interval_leaves_the_band_out() -> None:
    curves = metrics("kl", (1, 0.2, 16), (2, 0.3, 16))
    curves["kl/low"].pop()
    (chart,) = charts_of(curves)
    assert chart.curves[0].low == () and chart.y_label == "nats/token, n=16"


def test_parts_of_a_qualified_metric_are_found() -> None:
    curves = {
        "validation_success/sft": [(4, 0.5)],
        "validation_success/low/sft": [(4, 0.4)],
        "validation_success/high/sft": [(4, 0.6)],
        "validation_success/n/sft": [(4, 64.0)],
    }
    (chart,) = charts_of(curves)
    assert chart.curves[0].low == (0.4,) and chart.y_label == "share, n=64"

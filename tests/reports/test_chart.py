"""Charts put points where they belong."""

from __future__ import annotations

import math

import pytest

from flyball.errors import ConfigError
from flyball.reports.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_CURVES,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Curve,
    Mark,
    curve,
    lay_out,
    nice_ticks,
)

FLOOR, WALL = HEIGHT - BOTTOM, WIDTH - RIGHT
NAN = math.nan


def chart(*curves: Curve, **changes) -> Chart:
    return Chart("Title", "step", "unit", curves, **changes)


@pytest.mark.parametrize(
    ("low", "high", "about", "ticks"),
    [
        (0, 100, 5, [0, 20, 40, 60, 80, 100]),
        (0.1, 0.93, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3, 4, 5, [-4, -2, 0, 2, 4]),
        (7, 7, 5, [3, 4, 5, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_ticks_are_round_and_cover_the_data(low, high, about, ticks):
    found = nice_ticks(low, high, about)
    assert found[0] <= low and found[-1] >= high
    if low != high:
        assert found == pytest.approx(ticks)


def test_corners_of_a_share_chart():
    plot = lay_out(chart(Curve("a", (0, 10), (0.0, 1.0)), scale="share"))
    assert plot.lines[0].path == f"M{LEFT} {FLOOR} L{WALL} {TOP}"
    assert [tick.label for tick in plot.y_ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert plot.x_ticks[0].at == LEFT and plot.x_ticks[-1].at == WALL


def test_a_band_goes_there_on_top_and_back_below():
    plot = lay_out(chart(Curve("a", (0, 1), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0)), scale="share"))
    assert plot.lines[0].band == f"M{LEFT} {TOP} L{WALL} {TOP} L{WALL} {FLOOR} L{LEFT} {FLOOR}Z"


def test_nan_is_a_gap_and_a_lone_point_is_a_dot():
    plot = lay_out(chart(Curve("a", (0, 1, 2, 3, 4), (0.0, 0.5, NAN, 0.5, NAN)), scale="share"))
    assert plot.lines[0].path.count("M") == 2 and len(plot.lines[0].dots) == 1


def test_x_ticks_stay_inside_the_data_and_marks_outside_are_left_out():
    plot = lay_out(chart(Curve("a", (3, 97), (1.0, 2.0)), marks=(Mark(50, "here"), Mark(500, "nowhere"))))
    assert [tick.label for tick in plot.x_ticks] == ["20", "40", "60", "80"]
    assert [mark.label for mark in plot.marks] == ["here"]


def test_flat_single_and_empty_curves():
    assert lay_out(chart(Curve("a", (0, 1), (5.0, 5.0)))).lines[0].path
    assert lay_out(chart(Curve("a", (1,), (5.0,)))).lines[0].dots
    assert lay_out(chart(Curve("a", (), ()))) is None
    assert lay_out(chart(Curve("a", (0, 1), (NAN, NAN)))) is None


def test_the_drawing_in_words():
    plot = lay_out(chart(Curve("validation", (0, 1, 2), (0.25, NAN, 0.5)), scale="share"))
    assert plot.summary == "validation from 25.0 % to 50.0 %"


def test_points_are_sorted():
    assert curve("a", [(2, 20.0), (1, 10.0)]).y == (10.0, 20.0)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="2 x, 1 y"):
        Curve("a", (0, 1), (0.0,))
    with pytest.raises(ConfigError, match="neither bound"):
        Curve("a", (0,), (0.0,), low=(0.0,))
    with pytest.raises(ConfigError, match="split it"):
        lay_out(chart(*(Curve(str(i), (0,), (0.0,)) for i in range(MAX_CURVES + 1))))

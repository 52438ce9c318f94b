"""What a person sees: a curve to scale, the time left, and the metrics by their short names."""

from __future__ import annotations

import math

import pytest

from flyball.workflow.progress import PlainProgress, describe, minutes, sparkline


def test_a_sparkline_is_scaled_to_its_own_range() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([-3, -3]) == "▁▁"
    assert sparkline([0, math.nan, 1]) == "▁ █"
    assert sparkline([]) == ""
    assert sparkline([math.nan]) == " "


def test_a_long_curve_is_averaged_into_the_width() -> None:
    line = sparkline([0.0] * 50 + [1.0] * 50, width=10)
    assert line == "▁▁▁▁▁█████"


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.2, "8 s"), (125, "2 min 05 s"), (3780, "1 h 03 min"), (59.6, "1 min 00 s")]
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert minutes(seconds) == words


def test_metrics_are_shown_by_their_short_names() -> None:
    assert describe({"success_rate": 0.51234, "loss": 3.0}) == "success 0.512"
    whole = {"success_rate": 0.5, "success_rate/low": 0.4321, "success_rate/high": 0.57, "success_rate/n": 192.0}
    assert describe(whole) == "success 0.5 [0.432, 0.57] n=192"


def test_plain_progress_says_what_is_left_now_and_then() -> None:
    lines: list[str] = []
    now = [0.0]
    plain = PlainProgress(lines.append, every_seconds=10, clock=lambda: now[0])
    plain.begin("RL with tools", 10)
    for done in (1, 2, 3):
        now[0] += 6
        plain.advance(done, {"success_rate": done / 10, "reward_mean": done / 10})
    plain.end("done")
    assert lines == [
        "RL with tools ...",
        "RL with tools 2/10  48 s left  success 0.2  reward ▁█ 0.2",
        "RL with tools: done (18 s)",
    ]

"""What a person sees: a curve to scale, the time left, and the metrics by their short names."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from flyball.workflow.progress import LiveProgress, PlainProgress, describe, minutes, sparkline


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


def plain_and_its_clock() -> tuple[PlainProgress, list[str], list[float]]:
    lines, now = list[str](), [0.0]
    return PlainProgress(lines.append, every_seconds=10, clock=lambda: now[0]), lines, now


def test_plain_progress_says_what_is_left_now_and_then() -> None:
    plain, lines, now = plain_and_its_clock()
    plain.begin("RL with tools")
    for done in (1, 2, 3):
        now[0] += 6
        plain.advance(done, {"success_rate": done / 10, "reward_mean": done / 10}, 10)
    plain.end("done")
    assert lines == [
        "RL with tools ...",
        "RL with tools 2/10  48 s left  success 0.2  reward ▁█ 0.2",
        "RL with tools: done (18 s)",
    ]


def test_what_is_left_of_a_resumed_stage_follows_from_the_steps_since() -> None:
    plain, lines, now = plain_and_its_clock()
    plain.begin("RL with tools")
    for done in (31, 32):
        now[0] += 6
        plain.advance(done, {}, 40)
    assert lines[1] == "RL with tools 32/40  48 s left  "


def test_a_stage_ends_once_with_the_time_of_all_its_parts() -> None:
    plain, lines, now = plain_and_its_clock()
    plain.begin("evaluate")
    for suite in ("test", "ood"):
        plain.begin_part(f"candidate on {suite}", 4)
        now[0] += 7
        plain.end_part("success 3/4")
    plain.end("success 75 %")
    assert lines == [
        "evaluate ...",
        "candidate on test ...",
        "candidate on test: success 3/4 (7 s)",
        "candidate on ood ...",
        "candidate on ood: success 3/4 (7 s)",
        "evaluate: success 75 % (14 s)",
    ]


def test_the_bar_of_a_terminal_learns_the_number_of_steps() -> None:
    shown = io.StringIO()
    live = LiveProgress(Console(file=shown, force_terminal=True, width=120))
    live.begin("RL with tools")
    live._bars.refresh()
    live.advance(3, {}, 40)
    live._bars.refresh()
    live.end("done")
    live.close()
    assert "0/?" in shown.getvalue() and "3/40" in shown.getvalue() and "RL with tools: done (0 s)" in shown.getvalue()

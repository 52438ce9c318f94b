"""The benchmarks of schedules: the simulated optimum by hand, and what the rows say, on rows made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import async_speedup, control_plane
from benchmarks.async_speedup import ARMS, GROUP, SIZE, latencies, optimum


def test_in_turn_the_optimum_is_the_slowest_attempt_of_every_step_and_the_update() -> None:
    waits = {task: [0.5] * (GROUP - 1) + [1.0 + task % SIZE] for task in range(3 * SIZE)}
    spread = {task: [1.0] * GROUP for task in range(3 * SIZE)}
    assert optimum(spread, 3, 0, 0, 0.25) == pytest.approx(3 * 1.25)
    assert optimum(waits, 3, 0, 0, 0.0) <= 3 * SIZE
    assert optimum(spread, 3, 0, 2, 0.25) == pytest.approx(1.0 + 3 * 0.25), "all wait at once, the updates follow"


def test_being_ahead_never_costs_the_optimum_time() -> None:
    waits = latencies(1, 8, 0.25)
    times = [optimum(waits, 8, 1, lead, 0.02) for lead in (0, 1, 2, 4)]
    assert times == sorted(times, reverse=True) and times[0] > 2 * times[-1]


def rows(**seconds: float) -> list[dict[str, Any]]:
    took = {arm: seconds.get(arm.replace(" ", "_"), 10.0) for arm in ARMS}
    return [
        {"arm": arm, "seed": 0, "seconds": took[arm], "optimum_seconds": 2.0, "censoring_index": 1.0} for arm in ARMS
    ]


def holds(made: list[dict[str, Any]]) -> dict[str, bool]:
    return {finding.id.split(".")[1]: finding.holds for finding in async_speedup.findings(made)}


def test_what_the_rows_of_the_speedup_say() -> None:
    assert holds(rows(async_4=3.0)) == {"speedup": True, "still": True, "censoring": True}
    assert holds(rows(async_4=4.0, async_0=11.0)) == {"speedup": False, "still": False, "censoring": True}
    lost = rows(async_4=3.0)
    lost[0]["censoring_index"] = 0.9
    lost[1]["censoring_index"] = lost[2]["censoring_index"] = 0.9
    assert not holds(lost)["censoring"]


def test_what_the_rows_of_the_control_plane_say() -> None:
    row = {"trajectories": 9, "us_per_turn": 150.0, "wall_us_per_turn": 160.0, "peak_gib": 0.1}
    row |= {"pairs": [{"free_seconds": 2.0, "stuck_seconds": 2.01}], "waiting_seconds": 0.6}
    assert [finding.holds for finding in control_plane.findings([row])] == [True, True, True]
    worse = row | {"us_per_turn": 250.0, "waiting_seconds": 1.6}
    worse["pairs"] = [{"free_seconds": 2.0, "stuck_seconds": 2.1}]
    assert [finding.holds for finding in control_plane.findings([worse])] == [False, False, False]

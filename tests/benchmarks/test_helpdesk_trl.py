"""The benchmark of time to the same success: the clock of a run, what the rows say, which tasks both sides can do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.helpdesk_trl import HELD_OUT, Clock, HelpDesk, finding, trl_settings


def row(seed: int, side: str, seconds: float, *, reached: bool = True) -> dict[str, Any]:
    return {
        "seed": seed,
        "side": side,
        "seconds": seconds,
        "reached": reached,
        "history": [[seconds, 0.5]],
        "settings": {},
    }


def test_the_clock_adds_up_learning_and_stops_at_the_target_or_the_cap() -> None:
    clock = Clock("flyball", 0, target=0.5, cap=10.0)
    assert not clock.over
    clock.add(2.0, 0.4)
    clock.add(3.0, 0.3)
    assert clock.history == [(2.0, 0.4), (5.0, 0.3)] and not clock.over
    clock.add(1.0, 0.5)
    assert clock.over and clock.row()["reached"] and clock.row()["seconds"] == 6.0
    late = Clock("trl", 0, target=0.5, cap=10.0)
    late.add(11.0, 0.4)
    assert late.over and not late.row()["reached"]


def test_the_ratio_is_the_median_over_seeds_that_both_sides_ran() -> None:
    rows = [row(s, "flyball", 10.0) for s in range(3)] + [row(s, "trl", t) for s, t in enumerate((40.0, 60.0, 70.0))]
    found = finding([*rows, row(3, "flyball", 10.0)], 15.0)
    assert (found.value, found.n, found.holds) == (6.0, 3, True)
    assert found.interval == (4.0, 7.0) and found.details["lower_bounds"] == []


def test_a_run_that_the_cap_ended_counts_against_us() -> None:
    rows = [row(0, "flyball", 10.0), row(0, "trl", 100.0, reached=False)]
    found = finding(rows, 15.0)
    assert found.value == 10.0 and found.details["lower_bounds"] == [0]
    lost = finding([row(0, "flyball", 100.0, reached=False), row(0, "trl", 100.0, reached=False)], 15.0)
    assert lost.value == 0.0 and not lost.holds and math.isfinite(lost.details["by_seed"]["0"]["flyball_seconds"])


@pytest.mark.slow
def test_both_sides_get_tasks_in_which_the_customer_has_nothing_to_add(tmp_path: Any) -> None:
    desk = HelpDesk(None, 15.0, tmp_path)
    everything = sum(len(desk.inputs.split(split)) for split in HELD_OUT)
    assert 0.8 < len(desk.held_out) / everything < 0.95
    assert not {"missing_info"} & {task.family for task in desk.train + desk.held_out}
    settings = trl_settings(desk)
    batch = settings["per_device_train_batch_size"] * settings["steps_per_generation"]
    assert batch == desk.rl.tasks_per_step * desk.rl.group_size

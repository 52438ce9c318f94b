"""Monitors: every name is a definition, an alarm needs proof of a change beyond its margin, absence is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.errors import ConfigError
from flyball.metrics import METRICS
from flyball.release.approvals import ROLES
from flyball.release.monitoring import monitor, monitors
from flyball.release.monitors import (
    BASELINE,
    DAY,
    LEAST,
    MAY_BE_SET,
    MONITORS,
    LiveSession,
    changed,
    read_monitor,
    told_changes,
    watched,
)
from flyball.types import SessionRecord

PAGE = Path(__file__).parents[2] / "docs" / "monitors.md"
NOW = 30 * DAY


def live(i: int, at: float, *, version: str = "v1", arm: Any = "stable", **given: Any) -> LiveSession:
    words = {name: given.pop(name) for name in ("answer", "tools", "score", "kl") if name in given}
    facts = {"tool_calls_count": 2, "tool_error_count": 0, "tokens_in": 10, "tokens_out": 100, "duration_ms": 1000.0}
    facts |= {"human_override": False, "outcome": True, "cost_usd": 0.01, "release_channel": "general"}
    record = SessionRecord(
        session_id=f"p~s{i}", model_version="m", policy_version=version, reward_model_version="r", arm=arm,
        context={"at": at}, **(facts | given),
    )  # fmt: skip
    return LiveSession(record, **words)


def weeks(before: Any, after: Any, n: int = 200) -> list[LiveSession]:
    """`n` sessions in the first week and as many in the newest, facts by the index of a session."""
    old = [live(i, i * BASELINE / n, **before(i)) for i in range(n)]
    return [*old, *(live(n + i, NOW - BASELINE + i * BASELINE / n, **after(i)) for i in range(n))]


def reading(written: Any, sessions: list[LiveSession], now: float = NOW) -> Any:
    return read_monitor(monitor(written), watched(sessions, "v1", now))


def share(field: str, one_in: int, value: Any = True) -> Any:
    return lambda i: {field: value} if i % one_in == 0 else {}


def test_the_page_is_made_from_the_table() -> None:
    command = [sys.executable, "-m", "flyball.release.monitors"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "run: python -m flyball.release.monitors > docs/monitors.md"


def test_each_name_is_a_definition_with_unit_baseline_owner_and_alarm() -> None:
    declared = {name for name, metric in METRICS.items() if "monitoring" in metric.where}
    assert declared == MONITORS.keys()
    for one in MONITORS.values():
        assert one.owner in ROLES and one.unit and one.what and one.needs and one.margin > 0
        assert one.alarm and one.baseline and one.window.startswith("7 days")


def test_a_list_chooses_and_sets_and_no_list_is_every_monitor_as_defined() -> None:
    assert monitors() == tuple(MONITORS.values()) and not any(map(changed, monitors()))
    plain, own = monitors(
        ["refusal_drift", {"metric": "tool_error_rate", "margin": 0.05, "window_days": 14, "owner": "ML"}]
    )
    assert plain is MONITORS["refusal_drift"] and (own.measure, own.needs) == (
        MONITORS["tool_error_rate"].measure,
        "tool calls",
    )
    assert (own.alarm, own.window, own.owner) == ("rises by more than 5 points", "14 days", "ML")
    assert changed(own) == {"margin": 0.05, "window_days": 14, "owner": "ML"} and tuple(changed(own)) == MAY_BE_SET
    assert told_changes(own) == (
        "margin 0.05 instead of 0.03, window_days 14 instead of 7, owner ML instead of Platform"
    )
    same = {"metric": "missing_rate", "margin": 0.1, "window_days": 7}
    assert changed(monitor(same)) == {} and told_changes(monitor(same)) == ""


REFUSED: list[tuple[Any, str]] = [
    ("tool_eror_rate", "unknown monitor 'tool_eror_rate'; did you mean 'tool_error_rate'?"),
    ("weather", "unknown monitor 'weather'; valid: cost_per_success_usd, human_override_rate, "),
    ({"margin": 0.1}, "no metric; add metric: NAME"),
    ({"metric": "latency_seconds", "window": 7}, "unknown key 'window'; it has metric, margin, window_days, owner"),
    ({"metric": "task_completion_quality", "margin": -0.05}, "margin -0.05 is not a number above 0 and below 1"),
    ({"metric": "task_completion_quality", "margin": 0}, "to switch it off, list the other monitors without it"),
    ({"metric": "latency_seconds", "margin": 15}, "in shares of 1, so 15 % are 0.15"),
    ({"metric": "tool_error_rate", "margin": True}, "margin True is not a number"),
    ({"metric": "policy_kl_drift", "margin": -1.0}, "margin -1.0 is not a number above 0: it is in nats/token"),
    ({"metric": "tool_error_rate", "window_days": 0}, "window_days 0 is not a number above 0; the default is 7"),
    ({"metric": "missing_rate", "window_days": 2}, "window_days 2 is not a number above 2: its newest 2 days are left"),
    ({"metric": "tool_error_rate", "owner": "Ops"}, "unknown owner 'Ops'; valid: ML, Platform, Product"),
]


@pytest.mark.parametrize(("written", "said"), REFUSED)
def test_what_cannot_be_honoured_names_the_value_the_rule_and_the_way_out(written: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        monitor(written)
    assert said in str(caught.value)


def test_a_margin_of_its_own_decides_and_is_told_with_the_reading() -> None:
    sessions = weeks(*CHANGES["latency_seconds"])  # 30 % slower
    assert reading("latency_seconds", sessions).state == "alarm"
    wider = reading({"metric": "latency_seconds", "margin": 0.5}, sessions)
    assert wider.state == "quiet" and wider.reason.endswith("by more than 50 % (margin 0.5 instead of 0.15)")
    drift = weeks(lambda i: {}, lambda i: {"kl": (1.0 + i % 3, 100.0)})  # 0.02 nats a token
    assert reading("policy_kl_drift", drift).state == "quiet"
    assert reading({"metric": "policy_kl_drift", "margin": 0.01}, drift).state == "alarm"


def test_a_window_of_its_own_sees_what_is_older_or_only_what_is_new() -> None:
    """Every second session of the third week was corrected, one in 50 of the newest week as of the first."""
    before, _ = CHANGES["human_override_rate"]
    third = [live(900 + i, 2 * BASELINE + i * 1000.0, human_override=i % 2 == 0) for i in range(100)]
    sessions = [*weeks(before, before, 100), *third]
    assert reading("human_override_rate", sessions).coverage == (100, 100)
    long = reading({"metric": "human_override_rate", "window_days": 21}, sessions)
    assert (long.state, long.coverage) == ("alarm", (200, 200)) and "window_days 21 instead of 7" in long.reason
    short = reading({"metric": "human_override_rate", "window_days": 1}, sessions)
    assert short.state == "not_evaluable" and short.coverage[1] == 14


CHANGES = {
    "human_override_rate": (share("human_override", 50), share("human_override", 5)),
    "tool_error_rate": (share("tool_error_count", 50, 1), share("tool_error_count", 4, 2)),
    "missing_rate": (share("outcome", 50, None), share("outcome", 2, None)),
    "latency_seconds": (lambda i: {"duration_ms": 1000.0 + i % 7}, lambda i: {"duration_ms": 1300.0 + i % 7}),
    "cost_per_success_usd": (lambda i: {"cost_usd": 0.01 + i % 3 / 1e4}, lambda i: {"cost_usd": 0.013 + i % 3 / 1e4}),
    "policy_kl_drift": (lambda i: {}, lambda i: {"kl": (9.0 + i % 3, 100.0)}),
    "task_completion_quality": (lambda i: {"score": 0.9 - i % 3 / 50}, lambda i: {"score": 0.7 - i % 3 / 50}),
    "length_drift": (lambda i: {"tokens_out": 100 + i % 9}, lambda i: {"tokens_out": 70 + i % 9}),
    "tool_mix_drift": (
        lambda i: {"tools": frozenset(["find"])},
        lambda i: {"tools": frozenset(["find", "ask"][: 1 + i % 2])},
    ),
    "refusal_drift": (lambda i: {"answer": "Done."}, lambda i: {"answer": "I cannot help." if i % 4 == 0 else "Done."}),
    "style_drift": (lambda i: {"answer": "Done."}, lambda i: {"answer": "- Done" if i % 3 == 0 else "Done."}),
}  # fmt: skip


@pytest.mark.parametrize("name", MONITORS)
def test_every_monitor_can_alarm_and_is_quiet_without_a_change(name: str) -> None:
    before, after = CHANGES[name]
    changed = reading(name, weeks(before, after))
    assert changed.state == "alarm" and changed.now is not None and f"{changed.now.n}" in changed.reason
    quiet = (lambda i: {"kl": (1.0 + i % 3, 100.0)}) if name == "policy_kl_drift" else before
    assert reading(name, weeks(quiet, quiet)).state == "quiet"


def test_the_part_that_changed_most_is_named() -> None:
    found = reading("tool_mix_drift", weeks(*CHANGES["tool_mix_drift"]))
    assert found.part == "ask" and found.before is not None and found.before.value == 0.0


def test_a_change_for_the_better_is_no_alarm() -> None:
    before, after = CHANGES["human_override_rate"]
    assert reading("human_override_rate", weeks(after, before)).state == "quiet"
    before, after = CHANGES["length_drift"]
    assert reading("length_drift", weeks(after, before)).state == "alarm", "longer is a change like shorter"


def test_without_success_cost_has_no_upper_end_and_still_alarms() -> None:
    dearer = weeks(lambda i: {"cost_usd": 0.01 + i % 3 / 1e4}, lambda i: {"cost_usd": 0.01, "outcome": False})
    assert reading("cost_per_success_usd", dearer).state == "alarm"
    assert reading("cost_per_success_usd", weeks(*2 * (lambda i: {"outcome": False},))).state == "quiet"


def test_what_is_not_there_is_said() -> None:
    nothing = lambda i: {}  # noqa: E731
    drift = reading("policy_kl_drift", weeks(nothing, nothing))
    assert drift.state == "not_evaluable" and "token ids" in drift.reason and drift.coverage == (0, 200)
    assert "grade-live" in reading("task_completion_quality", weeks(nothing, nothing)).reason
    assert reading("human_override_rate", weeks(nothing, nothing, LEAST - 1)).state == "not_evaluable"
    first_week = reading("human_override_rate", weeks(nothing, nothing), now=3 * DAY)
    assert first_week.state == "not_evaluable" and "first 7 days" in first_week.reason


def test_labels_have_two_days_to_come() -> None:
    late = weeks(lambda i: {}, lambda i: {"outcome": None if i >= 200 * 5 // 7 else True})
    assert reading("missing_rate", late).state == "quiet"


def test_only_the_stable_sessions_of_the_version_count() -> None:
    others = [live(i, NOW - DAY, arm=arm, version=v) for i, (arm, v) in enumerate([("canary", "v1"), ("stable", "v2")])]
    seen = watched([*weeks(lambda i: {}, lambda i: {}), *others], "v1", NOW)
    assert len(seen.after) == 200 and {one.record.policy_version for one in seen.after} == {"v1"}


def test_false_alarms_are_rare() -> None:
    """At the margin itself each look errs with at most 0.1 %: of 400 looks, more than 4 have a chance below 1e-4."""
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(400):
        old, new = (rng.random(200) < share for share in (0.05, 0.08))
        seen = weeks(
            lambda i, old=old: {"human_override": bool(old[i])}, lambda i, new=new: {"human_override": bool(new[i])}
        )
        alarms += reading("human_override_rate", seen).state == "alarm"
    assert alarms <= 4

"""How well a learned reward tells success from failure, by policy version, and when it has fallen."""

from __future__ import annotations

import pytest

from flyball.errors import Fault
from flyball.evals.reward_accuracy import accuracy_by_version, needs_refresh, reward_accuracy
from flyball.stats.binomial import wilson
from flyball.types import Attempt, Call, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory


def graded(task: str, success: bool | Missing, reward: float | Missing, version: int = 0) -> GradedAttempt:
    call = Call("a", None, "main", (1,), (2,), (-0.5,), (version,), {}, "stop", {"role": "assistant"})
    attempt = Attempt(f"{task}-{success}-{reward}", Task(task, {}), Trajectory((call,), StopReason.ANSWERED), ())
    return GradedAttempt(attempt, Outcome(success), reward=reward)


def test_successes_are_compared_with_failures_at_the_same_task() -> None:
    """Task one: 0.9 beats 0.2 and ties with 0.9; task two: 0.1 loses to 0.5. Right: 1 + 0.5 + 0 of 3 pairs."""
    one = [graded("one", True, 0.9), graded("one", False, 0.2), graded("one", False, 0.9)]
    two = [graded("two", True, 0.1), graded("two", False, 0.5)]
    found = reward_accuracy([*one, *two])
    assert found is not None and found.value == pytest.approx(0.5)
    assert (found.n, found.clusters) == (3, 2) and found.low < 0.5 < found.high


def test_tasks_without_both_say_nothing() -> None:
    gone = Missing("x", Fault.GRADER)
    assert reward_accuracy([graded("a", True, 0.9), graded("b", False, 0.1), graded("a", False, gone)]) is None
    assert reward_accuracy([graded("a", gone, 0.9), graded("a", False, 0.1)]) is None


def test_a_fall_beyond_noise_starts_the_refresh() -> None:
    young = [g for i in range(60) for g in (graded(f"{i}", True, 0.9, 0), graded(f"{i}", False, 0.1, 0))]
    old = [g for i in range(60) for g in (graded(f"{i}", True, 0.5 - i % 2, 7), graded(f"{i}", False, 0.2, 7))]
    found = accuracy_by_version([*young, *old])
    assert list(found) == [0, 7] and (found[0].value, found[7].value) == (1.0, 0.5)
    assert "fell from 100.0 %" in needs_refresh(found[0], found[7])
    assert needs_refresh(found[0], found[0]) == ""
    assert needs_refresh(wilson(9, 10), wilson(7, 10)) == "", "ten pairs cannot tell"

"""Values of steps by hand, whatever the order of the attempts; values that no probability can learn are refused."""

from __future__ import annotations

import random

import pytest

from flyball.errors import Fault, TrainError
from flyball.rl.process_targets import step_targets
from flyball.rl.transitions import returns_to_go, transitions_of
from flyball.types import Attempt, Call, GradedAttempt, Missing, Outcome, RewardEvent, StopReason, Task, Trajectory


def call(name: str, parent: str | None, prompt: int, sampled: int) -> Call:
    return Call(name, parent, "main", (prompt,), (sampled,), (-0.5,), (0,), {}, "stop", {"role": "assistant"})


def graded(name: str, reward: float | Missing, *said: int) -> GradedAttempt:
    """An attempt that samples these tokens in turn, each after the same answer of a tool."""
    calls = tuple(call(f"c{k}", f"c{k - 1}" if k else None, 1, token) for k, token in enumerate(said))
    return GradedAttempt(
        Attempt(name, Task("t", {}), Trajectory(calls, StopReason.ANSWERED), ()), Outcome(True), reward=reward
    )


def test_the_return_counts_from_the_step_to_the_end() -> None:
    """AgentPRM's paper form: success at T = 4 with g = 0.95."""
    values = [t.value for t in step_targets([graded("a", 1.0, 5, 6, 7, 8)], 0.95)]
    assert values == pytest.approx([0.857375, 0.9025, 0.95, 1.0])
    assert returns_to_go([0.0, 1.0, 0.5], 0.5) == [0.625, 1.25, 0.5]


def test_a_step_that_attempts_share_is_worth_their_mean() -> None:
    """Returns g^2, 0 and g^4 through one first step: 0.572335."""
    attempts = [graded("a", 1.0, 5, 6, 7), graded("b", 0.0, 5, 8), graded("c", 1.0, 5, 6, 9, 9, 9)]
    first = [t for t in step_targets(attempts, 0.95) if t.call == 0]
    assert [t.value for t in first] == pytest.approx([0.572335] * 3, abs=1e-6)
    assert [t.visits for t in first] == [3, 3, 3]
    second = {t.attempt_id: t for t in step_targets(attempts, 0.95) if t.call == 1}
    assert second["a"].visits == second["c"].visits == 2 and second["b"].visits == 1


def test_the_order_of_attempts_changes_nothing() -> None:
    attempts = [graded(f"{i}", float(i % 2), 5, 6 + i % 3, i % 2) for i in range(9)]
    shuffled = random.Random(3).sample(attempts, len(attempts))
    assert sorted(map(repr, step_targets(attempts))) == sorted(map(repr, step_targets(shuffled)))


def test_rewards_of_turns_count_where_they_lie() -> None:
    one = graded("a", 0.75, 5, 6)
    events = (RewardEvent(0, 0, "c0", "turn", 0.25), RewardEvent(0, 1, None, "success", 0.5))
    values = [t.value for t in step_targets([GradedAttempt(one.attempt, one.outcome, {}, events, 0.75)], 1.0)]
    assert values == [0.75, 0.5]


def test_missing_rewards_teach_nothing_and_others_must_be_probabilities() -> None:
    assert step_targets([graded("a", Missing("x", Fault.GRADER), 5)]) == []
    with pytest.raises(TrainError, match=r"the return of step 0 is -0\.5"):
        step_targets([graded("a", -0.5, 5)])
    with pytest.raises(TrainError, match="discount is 0"):
        step_targets([graded("a", 1.0, 5)], 0.0)


def test_a_transition_holds_what_was_seen_and_said_and_earned() -> None:
    one = graded("a", 0.75, 5, 6)
    events = (RewardEvent(0, 0, "c0", "turn", 0.25), RewardEvent(0, 1, None, "success", 0.5))
    first, last = transitions_of(GradedAttempt(one.attempt, one.outcome, {}, events, 0.75), 0.5)
    assert (first.state.tolist(), first.action.tolist(), first.reward, first.returned) == ([1], [5], 0.25, 0.5)
    assert (last.state.tolist(), last.action.tolist(), last.reward, last.returned) == ([1, 5, 1], [6], 0.5, 0.5)
    assert (first.last, last.last) == (False, True)
    assert first.key == transitions_of(graded("b", 0.0, 5, 9))[0].key != last.key

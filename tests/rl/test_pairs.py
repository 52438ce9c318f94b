"""From attempts to pairs: who is compared with whom, which turns are trained, and what each token weighs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import ConfigError, Fault, TrainError
from flyball.rl.pairs import (
    Pair,
    answer_of,
    best_attempts,
    first_difference,
    held_out_tasks,
    in_scope,
    pairs_from_attempts,
)
from flyball.rl.preference_methods import METHODS, preference_method, score_weights
from flyball.types import Attempt, Call, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory, Usage


def call(name: str, parent: str | None, prompt: tuple[int, ...], sampled: tuple[int, ...]) -> Call:
    n = len(sampled)
    return Call(name, parent, "main", prompt, sampled, (-0.5,) * n, (0,) * n, {}, "stop", {"role": "assistant"})


def graded(
    name: str, reward: float | Missing, *calls: Call, task: str = "t", success: bool = True, tokens: int = 1
) -> GradedAttempt:
    trajectory = Trajectory(calls or (call("a", None, (1, 2), (3, 4)),), StopReason.ANSWERED)
    attempt = Attempt(name, Task(task, {}), trajectory, (), usage=Usage(tokens_out=tokens))
    return GradedAttempt(attempt, Outcome(success), reward=reward)


def pair(chosen: tuple[Call, ...], rejected: tuple[Call, ...]) -> Pair:
    return Pair("t", answer_of(graded("c", 1.0, *chosen)), answer_of(graded("r", 0.0, *rejected)), 1.0, "test")


def test_the_best_meets_the_worst_while_the_margin_is_enough() -> None:
    attempts = [
        graded("d", 0.1),
        graded("a", 1.0),
        graded("c", 0.5),
        graded("b", 0.8),
        graded("m", Missing("x", Fault.GRADER)),
    ]
    made = pairs_from_attempts(attempts, min_margin=0.0, per_task=9, source="run-1")
    assert [p.source for p in made] == ["run-1: a over d", "run-1: b over c"]
    assert [p.margin for p in made] == pytest.approx([0.9, 0.3])
    assert len(pairs_from_attempts(attempts, min_margin=0.5, per_task=9, source="")) == 1
    assert len(pairs_from_attempts(attempts, min_margin=0.0, per_task=1, source="")) == 1


def test_equal_rewards_and_other_tasks_make_no_pair() -> None:
    alike = [graded("a", 0.5), graded("b", 0.5)]
    apart = [graded("a", 0.0, task="one"), graded("b", 1.0, task="two")]
    silent = Attempt("s", Task("t", {}), Trajectory((), StopReason.ANSWERED), ())
    said_nothing = [GradedAttempt(silent, Outcome(False), reward=0.0), graded("b", 1.0)]
    for attempts in (alike, apart, said_nothing):
        assert pairs_from_attempts(attempts, 0.0, 4, "") == []


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), max_size=9), st.floats(0, 1), st.integers(1, 5))
def test_every_pair_wins_by_its_margin_and_no_attempt_is_in_two(rewards: list[float], least: float, most: int) -> None:
    made = pairs_from_attempts([graded(f"{i}", r) for i, r in enumerate(rewards)], least, most, "s")
    sides = [side.samples[0].attempt_id for p in made for side in (p.chosen, p.rejected)]
    assert len(sides) == len(set(sides)) and len(made) <= most
    for p in made:
        better, worse = (rewards[int(side.samples[0].attempt_id)] for side in (p.chosen, p.rejected))
        assert p.margin == better - worse and p.margin > 0 and p.margin >= least


def test_rejection_sampling_keeps_the_best_successes_of_each_task() -> None:
    attempts = [
        graded("long", 1.0, tokens=9),
        graded("short", 1.0, tokens=3),
        graded("cheap", 0.4),
        graded("failed", 2.0, success=False),
        graded("other", 0.2, task="u"),
    ]
    assert [g.attempt.attempt_id for g in best_attempts(attempts, 1)] == ["short", "other"]
    assert [g.attempt.attempt_id for g in best_attempts(attempts, 2)] == ["short", "long", "other"]


SAME = call("a", None, (1,), (2, 3))


def test_a_step_is_the_turn_in_which_the_answers_part() -> None:
    both = pair((SAME, call("b", "a", (9,), (4, 5)), call("c", "b", (9,), (7,))), (SAME, call("b", "a", (9,), (4, 6))))
    assert first_difference(both) == 1
    step, segment = in_scope(both, "step"), in_scope(both, "segment")
    assert step is not None and segment is not None

    def trained(answer_pair: Pair) -> list[list[int]]:
        return [
            side.samples[0].token_ids[side.samples[0].loss_mask].tolist()
            for side in (answer_pair.chosen, answer_pair.rejected)
        ]

    assert trained(step) == [[4, 5], [4, 6]]
    assert trained(segment) == [[4, 5, 7], [4, 6]]
    assert trained(in_scope(both, "all") or both) == [[2, 3, 4, 5, 7], [2, 3, 4, 6]]
    assert (segment.chosen.num_turns, segment.rejected.num_turns) == (2, 1)


def test_answers_that_a_tool_parts_have_no_step() -> None:
    parted = pair((SAME, call("b", "a", (9,), (4,))), (SAME, call("b", "a", (8,), (4,))))
    assert first_difference(parted) is None and in_scope(parted, "step") is None
    prefix = pair((SAME, call("b", "a", (9,), (4,))), (SAME,))
    assert in_scope(prefix, "segment") is None


def test_weights_of_a_score_by_hand() -> None:
    """Turns of 2, 1 and 1 tokens: DPO 1 each, SimPO 1/4 each, DMPO by phi(t, 3) with g = 0.7."""
    answer = pair((SAME, call("b", "a", (9,), (4,)), call("c", "b", (9,), (5,))), (SAME,)).chosen

    def weights(name: str) -> list[float]:
        row = preference_method(name)
        (found,) = score_weights(answer, row, row.settings({}))
        return found[answer.samples[0].loss_mask].tolist()

    phi = [0.7**t * (1 - 0.7 ** (3 - t)) / (1 - 0.7**3) for t in range(3)]
    assert weights("dpo") == [1, 1, 1, 1] and weights("simpo") == [0.25] * 4
    assert weights("dmpo") == pytest.approx([phi[0], phi[0], phi[1], phi[2]], rel=1e-6)


def test_one_turn_makes_dmpo_dpo() -> None:
    answer = pair((SAME,), (SAME,)).chosen
    rows = [preference_method(name) for name in ("dpo", "dmpo")]
    dpo, dmpo = (score_weights(answer, row, row.settings({}))[0].tolist() for row in rows)
    assert dpo == dmpo


def test_a_method_refuses_what_it_does_not_read() -> None:
    assert preference_method("simpo").settings({"beta": 3.0, "gamma": None}) == {"beta": 3.0, "gamma": 1.375}
    with pytest.raises(ConfigError, match="gamma would be ignored: dpo reads beta"):
        preference_method("dpo").settings({"gamma": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'simpo'"):
        preference_method("simp")


@settings(deadline=None)
@given(st.sets(st.text("abc", min_size=1), min_size=2), st.floats(0.01, 0.99), st.integers(0, 9))
def test_whole_tasks_are_held_out_and_some_are_left(tasks: set[str], share: float, seed: int) -> None:
    out = held_out_tasks(tasks, share, seed)
    assert 1 <= len(out) < len(tasks) and out < tasks
    assert out == held_out_tasks(sorted(tasks), share, seed)


def test_a_single_task_is_learned() -> None:
    assert held_out_tasks(["t", "t"], 0.5, 0) == set()


def test_an_attempt_that_sampled_nothing_is_no_answer() -> None:
    with pytest.raises(TrainError, match="sampled no token"):
        answer_of(graded("a", 1.0, call("a", None, (1,), ())))


def test_every_row_has_defaults_and_a_source() -> None:
    assert all(row.source and row.reads["beta"] > 0 for row in METHODS.values())
    assert not np.isnan([value for row in METHODS.values() for value in row.reads.values()]).any()
    assert math.isclose(METHODS["step_dpo"].reads["beta"], 0.4)

"""From graded attempts to training samples: who is compared, which tokens are trained, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.errors import Fault
from flyball.rl.algorithms import algorithm
from flyball.rl.samples import GroupSignal, samples_from_groups
from flyball.types import Attempt, Call, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory

BROKEN = Missing("the grader raised", Fault.GRADER)


def call(name: str, parent: str | None, prompt: tuple[int, ...], sampled: tuple[int, ...]) -> Call:
    n = len(sampled)
    logprobs = tuple(-0.1 * t for t in sampled)
    return Call(name, parent, "main", prompt, sampled, logprobs, (3,) * n, {}, "stop", {"role": "assistant"})


def graded(name: str, reward: float | Missing, *calls: Call) -> GradedAttempt:
    trajectory = Trajectory(calls or (call("a", None, (1, 2), (3, 4)),), StopReason.ANSWERED)
    attempt = Attempt(name, Task("t", {}), trajectory, ())
    return GradedAttempt(attempt, Outcome(True), reward=reward)


def rloo(*groups: list[GradedAttempt]) -> GroupSignal:
    return samples_from_groups(groups, algorithm("rloo"))


def test_the_advantage_of_an_attempt_goes_to_what_it_sampled() -> None:
    signal = rloo([graded("good", 1.0), graded("bad", 0.0)])
    good, bad = signal.samples
    assert (good.attempt_id, bad.attempt_id) == ("good", "bad")
    assert good.token_ids.tolist() == [1, 2, 3, 4]
    assert good.loss_mask.tolist() == [False, False, True, True]
    assert good.advantages.tolist() == [0, 0, 1, 1] and bad.advantages.tolist() == [0, 0, -1, -1]
    assert good.sampling_logprobs.tolist() == pytest.approx([0, 0, -0.3, -0.4])
    assert good.loss_weights.tolist() == [0, 0, 0.25, 0.25]  # token-mean over the four of the whole batch
    assert good.policy_versions is not None and good.policy_versions.tolist() == [-1, -1, 3, 3]


def test_a_tool_result_is_context_and_not_trained() -> None:
    turns = (call("a", None, (1,), (2, 3)), call("b", "a", (70, 71), (4,)))
    sample = rloo([graded("good", 1.0, *turns), graded("bad", 0.0)]).samples[0]
    assert sample.token_ids.tolist() == [1, 2, 3, 70, 71, 4]
    assert sample.loss_mask.tolist() == [False, True, True, False, False, True]


def test_a_token_shared_by_branches_is_trained_once() -> None:
    tree = (call("root", None, (1,), (2, 3)), call("left", "root", (7,), (4,)), call("right", "root", (8,), (5, 6)))
    left, right, _bad = rloo([graded("good", 1.0, *tree), graded("bad", 0.0)]).samples
    assert (left.branch, right.branch) == (0, 1)
    assert left.token_ids[left.loss_mask].tolist() == [2, 3, 4]
    assert right.token_ids.tolist() == [1, 2, 3, 8, 5, 6]
    assert right.token_ids[right.loss_mask].tolist() == [5, 6]
    assert right.advantages.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_group_without_variance_trains_nothing() -> None:
    signal = rloo([graded("a", 1.0), graded("b", 1.0)], [graded("c", 1.0), graded("d", 0.0)])
    assert {s.attempt_id for s in signal.samples} == {"c", "d"}
    assert (signal.num_groups, signal.num_zero_variance, signal.num_missing) == (2, 1, 0)
    assert sum(float(s.loss_weights.sum()) for s in signal.samples) == pytest.approx(1.0)


def test_a_missing_reward_is_left_out_and_counted() -> None:
    """The two that could be graded are compared with each other as if the third were not there; it is no zero."""
    signal = rloo([graded("good", 1.0), graded("broken", BROKEN), graded("bad", 0.0)])
    assert [s.attempt_id for s in signal.samples] == ["good", "bad"]
    assert signal.samples[0].advantages.max() == 1.0
    assert signal.num_missing == 1


def test_a_group_in_which_one_could_be_graded_teaches_nothing() -> None:
    signal = rloo([graded("good", 1.0), graded("broken", BROKEN)], [graded("x", BROKEN), graded("y", BROKEN)])
    assert signal.samples == ()
    assert (signal.num_zero_variance, signal.num_missing) == (2, 3)


def test_an_attempt_that_sampled_nothing_gives_no_sample() -> None:
    silent = graded("silent", 0.0, call("a", None, (1, 2), ()))
    assert [s.attempt_id for s in rloo([graded("good", 1.0), silent]).samples] == ["good"]


def test_dr_grpo_divides_by_the_horizon_alone() -> None:
    signal = samples_from_groups([[graded("good", 1.0), graded("bad", 0.0)]], algorithm("dr_grpo"), horizon=10)
    assert signal.samples[0].loss_weights[2:] == pytest.approx(np.full(2, 1 / (2 * 10)))

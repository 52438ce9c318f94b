"""Rewards on turns lie on the calls they are for, add up, and are Missing when they cannot be read."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyball.errors import ConfigError, Fault
from flyball.graders.grade import REWARD, TURN_REWARD, GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.graders.turns import TurnGrader
from flyball.rl.algorithms import algorithm
from flyball.rl.samples import samples_from_groups
from flyball.types import Attempt, Call, GradedAttempt, Missing, StopReason, Task, Trajectory
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import Workflow

SAID = {"role": "assistant"}


def attempt(calls: int = 3, name: str = "a") -> Attempt:
    made = tuple(
        Call(
            f"c{i}",
            f"c{i - 1}" if i else None,
            "main",
            (1,),
            (2, 3),
            (-0.1, -0.2),
            (0, 0),
            {},
            "stop",
            {"role": "assistant"},
        )
        for i in range(calls)
    )
    return Attempt(name, Task("t", {}), Trajectory(made, StopReason.ANSWERED), None)


def graded(said: Any, calls: int = 3) -> GradedAttempt:
    graders = GraderSet(
        success=FunctionGrader(lambda a, hidden: True, "success"),
        reward=FunctionGrader(lambda a, hidden: 0.5, "reward"),
        turn_reward=TurnGrader(lambda a, hidden: said),
    )
    return asyncio.run(graders.grade(attempt(calls)))


def test_each_call_carries_its_reward_and_the_sum_is_learned() -> None:
    found = graded([0.25, 0, -1])
    assert found.reward == pytest.approx(-0.25)
    assert [(e.turn, e.call_id, e.component, e.value) for e in found.events] == [
        (2, None, REWARD, 0.5), (0, "c0", TURN_REWARD, 0.25), (1, "c1", TURN_REWARD, 0.0), (2, "c2", TURN_REWARD, -1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([1.0], "returned 1 values for 3 calls"),
        (0.5, "returned float for 3 calls"),
        (None, "returned NoneType"),
        ([1.0, math.nan, 0.0], "a reward is a finite number"),
        ([1.0, "2", 0.0], "a reward is a finite number"),
    ],
)
def test_what_is_no_list_of_numbers_leaves_the_reward_missing(said: Any, why: str) -> None:
    found = graded(said)
    assert isinstance(found.reward, Missing) and found.reward.fault is Fault.GRADER and why in found.reward.cause
    assert found.events == () and found.outcome.success is True


def by_answers(attempt: Attempt, hidden: Any) -> list[float]:
    return [1.0] * len(attempt.trajectory.calls)


def by_nothing(attempt: Attempt, hidden: Any) -> list[float]:
    return [0.0] * len(attempt.trajectory.calls)


def test_a_changed_turn_reward_is_another_version() -> None:
    success = FunctionGrader(lambda a, hidden: True, "success")
    turns = (None, TurnGrader(by_answers), TurnGrader(by_nothing))
    assert len({GraderSet(success, turn_reward=turn).version for turn in turns}) == 3


def test_equal_totals_earned_on_unlike_turns_are_told_apart() -> None:
    """Returns to go of [1, 0] and [0, 1] with no reward at the end: (1, 0) against (1, 1), so only turn 2 differs."""
    early, late = (
        replace(graded(said, 2), attempt=attempt(2, name)) for said, name in (([1.0, 0.0], "a"), ([0.0, 1.0], "b"))
    )
    signal = samples_from_groups([[early, late]], algorithm("turn_rloo"))
    first, second = ([float(x) for x in s.advantages[s.loss_mask.astype(bool)]] for s in signal.samples)
    assert (first, second) == ([0.0, 0.0, -1.0, -1.0], [0.0, 0.0, 1.0, 1.0])


def test_a_preset_that_reads_turns_is_refused_without_them(tmp_path: Path) -> None:
    class World:
        """A desk."""

        def reset(self) -> str:
            return "hello"

    def flow(**more: Any) -> Inputs:
        tasks = [
            Task(f"{split}-{i}", {}, {}, split=split) for split in ("train", "validation", "test") for i in range(2)
        ]
        training = {"sft": None, "rl": {"preset": "mt_grpo"}}
        return Inputs(Workflow(World, tasks, lambda a, hidden: True, training=training, **more))

    with pytest.raises(ConfigError, match="gives none; pass `turn_reward`"):
        flow().check()
    flow(turn_reward=by_nothing).check()
    with pytest.raises(ConfigError, match="turn_reward is 3"):
        flow(turn_reward=3)

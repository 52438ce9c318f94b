"""Stored attempts judged again: groups of RL beside each other, everything else by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyball.store.store import Store
from flyball.types import Attempt, AttemptGroup, GradedAttempt, Outcome, Score, StopReason, Task, Trajectory
from flyball.workflow.regrade import regrade
from flyball.workflow.workflow import Workflow


class Desk:
    """Answer."""

    def reset(self) -> str:
        return "go"


def success(attempt: Attempt, hidden: Mapping[str, Any]) -> bool:
    return True


class Longest:
    """Pays the longest answer of a group."""

    name, version, ranks = "longest", "1", True

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        return Score(0.5)

    async def grade_group(self, group: AttemptGroup) -> list[Score]:
        longest = max(len(one.answer) for one in group.attempts)
        return [Score(float(len(one.answer) == longest)) for one in group.attempts]


def graded(task: Task, index: int, answer: str, twice: str = "") -> GradedAttempt:
    said = ({"role": "assistant", "content": answer},)
    made = Trajectory((), StopReason.ANSWERED)
    name = f"{task.task_id}-{index}{twice}"
    return GradedAttempt(Attempt(name, task, made, said, group_index=index), Outcome(True, None, "old"))


def test_groups_of_training_are_ranked_again_and_others_are_judged_alone(tmp_path: Path) -> None:
    one, other = Task("one", {}), Task("other", {}, split="test")
    workflow = Workflow(Desk, [one, other], success, Longest())
    group = [graded(one, 0, "a"), graded(one, 1, "aaa")]
    again = [graded(one, 0, "aaaa", "again"), graded(one, 1, "aa", "again")]
    with Store(tmp_path) as store:
        run = store.new_run("train", {})
        store.add_attempts(run, "rl", 1, [*group, *again])
        store.add_attempts(run, "rl", 2, [graded(one, 0, "b", "later")])
        store.add_attempts(run, "eval", 0, [graded(other, 0, "longest of all")])
        done = regrade(workflow, store, run)
        rewards = {found.attempt.attempt_id: found.reward for found in store.attempts(run)}
    assert done.num_attempts == 6
    assert rewards == {
        "one-0": 0.0, "one-1": 1.0, "one-0again": 1.0, "one-1again": 0.0, "one-0later": 0.5, "other-0": 0.5
    }  # fmt: skip

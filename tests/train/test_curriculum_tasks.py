"""Tasks of RL by a curriculum: what a step is at follows from the attempts that are kept, resumed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flyball.tasks.curriculum import CurriculumPlan
from flyball.train.rollouts import CurriculumTasks, InTurn, Ledger
from flyball.types import Attempt, GradedAttempt, Outcome, StopReason, Task, Trajectory

PLAN = CurriculumPlan(("easy", "hard"), promote_at=0.6, by_family=True)
TASKS = [Task(f"{stage}-{i}", {}, stage=stage, family="ab"[i % 2]) for stage in ("easy", "hard") for i in range(8)]


class Kept:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.steps: dict[int, list[GradedAttempt]] = {}
        self.ledger = Ledger(self.keep, lambda step: self.steps.get(step, []))

    def keep(self, step: int, graded: Sequence[GradedAttempt]) -> None:
        self.steps[step] = list(graded)


def graded(task: Task, number: int) -> GradedAttempt:
    """Easy tasks succeed, hard ones fail."""
    won = task.stage == "easy"
    attempt = Attempt(f"{task.task_id}-{number}", task, Trajectory((), StopReason.ANSWERED), ())
    return GradedAttempt(attempt, Outcome(won), reward=float(won))


def steps(kept: Kept, first: int, last: int) -> list[list[str]]:
    """Learn from these steps in a process of its own: the tasks of each."""
    tasks = CurriculumTasks(PLAN, TASKS, 4, seed=3, ledger=kept.ledger)

    async def attempt(drawn: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
        return [[graded(task, step * 2 + i) for i in range(2)] for task in drawn]

    rollouts = InTurn(tasks, attempt, kept.ledger)
    batches = [asyncio.run(rollouts.next_batch(step)) for step in range(first, last)]
    return [[group[0].attempt.task.task_id for group in batch] for batch in batches]


def test_success_at_a_level_leads_to_the_next() -> None:
    kept = Kept()
    found = steps(kept, 0, 4)
    assert all(name.startswith("easy") for name in found[0])
    assert sum(name.startswith("hard") for name in found[-1]) == 3, "and one of four is of the level before"


def test_a_resumed_run_draws_what_an_unbroken_one_would() -> None:
    whole, cut = Kept(), Kept()
    unbroken = steps(whole, 0, 6)
    assert steps(cut, 0, 3) + steps(cut, 3, 6) == unbroken
    assert steps(whole, 2, 6) == unbroken[2:], "a step that is learned again is at the same tasks"


def test_where_it_stands_is_a_metric() -> None:
    kept = Kept()
    steps(kept, 0, 4)
    tasks = CurriculumTasks(PLAN, TASKS, 4, seed=3, ledger=kept.ledger)
    tasks.of_step(3)
    found = tasks.metrics()
    assert found["curriculum_level"] == 1.0
    assert abs(sum(v for k, v in found.items() if k.startswith("curriculum_share/")) - 1) < 1e-9

"""Refilled batches and skipped tasks: whole groups, a bound, and a resumed run that chooses the same."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from flyball.rl.algorithms import algorithm, configured
from flyball.rl.samples import teaches
from flyball.train.rollouts import Batches, Groups, Ledger
from flyball.train.selective import Selection, Selective
from flyball.types import GradedAttempt, Task
from tests.train.test_rl import graded

TASKS = [Task(f"task-{i}", {}) for i in range(12)]
DAPO = configured("dapo", {})


class Desk:
    """Tasks whose number is in `mixed` are solved by every other attempt, the rest always or never."""

    def __init__(self, mixed: set[int], group_size: int = 4) -> None:
        self.mixed, self.group_size = mixed, group_size
        self.rounds: list[list[str]] = []
        self.recorded: dict[int, list[GradedAttempt]] = {}

    async def attempt(self, tasks: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
        self.rounds.append([task.task_id for task in tasks])
        draw = np.random.default_rng(len(self.rounds))
        return [[graded(task, self.reward(task, i), draw) for i in range(self.group_size)] for task in tasks]

    def reward(self, task: Task, index: int) -> float:
        number = int(task.task_id.removeprefix("task-"))
        return float(index % 2 if number in self.mixed else number % 2)

    def selective(self, max_refills: int = 3, *, skip: bool = False, size: int = 4) -> Selective:
        ledger = Ledger(lambda step, g: self.recorded.setdefault(step, []).extend(g), self.kept)
        selection = Selection(self.group_size, max_refills, skip, partial(teaches, algorithm=DAPO))
        return Selective(Batches(TASKS, 10, size, 7), self.attempt, ledger, selection)

    def kept(self, step: int) -> list[GradedAttempt]:
        return self.recorded.get(step, [])


async def batches(rollouts: Selective, first: int, last: int) -> list[Groups]:
    async with rollouts.from_step(first):
        return [await rollouts.next_batch(step) for step in range(first, last)]


def run(rollouts: Selective, first: int, last: int) -> list[Groups]:
    return asyncio.run(batches(rollouts, first, last))


def names(groups: Groups) -> list[str]:
    return [group[0].attempt.task.task_id for group in groups]


def test_a_batch_is_refilled_until_enough_groups_teach() -> None:
    desk = Desk(mixed=set(range(0, 12, 2)))
    (groups,) = run(desk.selective(max_refills=9), 0, 1)
    teaching = [group for group in groups if teaches(group, DAPO)]
    assert len(teaching) == 4 and len(groups) > 4
    assert all(len(group) == 4 and len({g.attempt.task.task_id for g in group}) == 1 for group in groups), (
        "groups whole"
    )
    assert len(set(names(groups))) == len(groups), "other tasks, never the same again"
    assert len(desk.rounds[0]) == 4
    asked = 0
    for before, tasks in itertools.pairwise(desk.rounds):  # each round asks for exactly what is missing
        asked += len(before)
        assert len(tasks) == 4 - sum(teaches(group, DAPO) for group in groups[:asked])


@pytest.mark.parametrize("max_refills", [0, 2])
def test_the_bound_on_refills_holds(max_refills: int) -> None:
    desk = Desk(mixed=set())
    (groups,) = run(desk.selective(max_refills), 0, 1)
    assert len(desk.rounds) == 1 + max_refills and len(groups) == 4 * (1 + max_refills)


def test_it_ends_when_no_task_is_left() -> None:
    desk = Desk(mixed={3})
    (groups,) = run(desk.selective(max_refills=99), 0, 1)
    assert sorted(names(groups)) == sorted(task.task_id for task in TASKS)


def test_a_batch_that_teaches_is_left_as_it_is() -> None:
    desk = Desk(mixed=set(range(12)))
    assert [len(groups) for groups in run(desk.selective(), 0, 3)] == [4, 4, 4]
    assert sorted(name for tasks in desk.rounds for name in tasks) == sorted(task.task_id for task in TASKS), "an epoch"


def test_more_places_than_tasks_are_filled_with_repetitions() -> None:
    (groups,) = run(Desk(mixed=set(range(12))).selective(size=30), 0, 1)
    assert len(groups) == 30


def test_skipping_spares_tasks_that_teach_nothing_and_says_how_many() -> None:
    plain, sparing = Desk(mixed={0, 1, 2}), Desk(mixed={0, 1, 2})
    run(plain.selective(0), 0, 10)
    rollouts = sparing.selective(0, skip=True)
    run(rollouts, 0, 10)

    def useful(desk: Desk) -> float:
        attempted = [name for tasks in desk.rounds for name in tasks]
        return sum(name in ("task-0", "task-1", "task-2") for name in attempted) / len(attempted)

    assert useful(plain) == pytest.approx(0.25, abs=0.03)
    assert useful(sparing) > 0.4
    assert 0 < rollouts.observe()["skipped_share"] < 1 and plain.selective(0).observe() == {}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_it_chooses_what_an_unbroken_run_does(stop: int) -> None:
    """Also when it was killed inside a step, after the first round was kept."""
    whole, broken = Desk(mixed={0, 1, 5}), Desk(mixed={0, 1, 5})
    expected = run(whole.selective(skip=True), 0, 6)
    run(broken.selective(skip=True), 0, stop)
    first_round = whole.recorded[stop + 1][:16]
    broken.recorded[stop + 1] = list(first_round)
    found = run(broken.selective(skip=True), stop, 6)
    assert [names(groups) for groups in found] == [names(groups) for groups in expected[stop:]]


def test_the_row_dapo_runs_and_is_the_paper() -> None:
    row = algorithm("dapo")
    assert (row.clip_ratio_low, row.clip_ratio_high, row.loss_agg_mode, row.kl_coef) == (0.2, 0.28, "token-mean", 0.0)
    assert (row.overlong, row.max_refills) == ("punish", 3)
    assert "max_refills" not in algorithm("reinforce_pp").reads, "it learns from every group"

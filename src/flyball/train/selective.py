"""Batches in turn with the updates whose tasks are chosen: refilled until enough groups teach, and skipped beforehand.

Refilling is the dynamic sampling of DAPO (arXiv 2503.14476): where groups of a step teach nothing, as many other tasks
are attempted, round by round, until the step has as many groups that teach as it asked for, or `max_refills` rounds are
done. Groups stay whole, none is thrown away, and `refilled_share` says what it cost. Skipping is GRESO
(`rl/selection.py`).

Everything follows from what the ledger keeps: a resumed run reads the attempts of the steps before and is where it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from flyball.rl.selection import Visit, Visits
from flyball.rng import derive
from flyball.train.rollouts import Attempt_G, Batches, Groups, Ledger
from flyball.types import GradedAttempt, Task

SKIPPING_PASSES = 2
"""How often all tasks are gone through for one round before they are taken whatever their history says."""


@dataclass(frozen=True)
class Selection:
    """`teaches`: whether a group has advantages other than 0; `skip`: whether tasks are skipped by their history."""

    group_size: int
    max_refills: int
    skip: bool
    teaches: Callable[[Sequence[GradedAttempt]], bool]


class Selective:
    """`Rollouts` in turn with the updates, with a choice of tasks. `attempt` uses the learner's current weights."""

    resume_at = None

    def __init__(self, batches: Batches, attempt: Attempt_G, ledger: Ledger, selection: Selection) -> None:
        self._batches, self._attempt, self._ledger, self._selection = batches, attempt, ledger, selection
        self._visits, self._position, self._skipped, self._looked = Visits(), 0, 0, 0
        self._order = np.zeros(0, np.int64)

    @asynccontextmanager
    async def from_step(self, step: int) -> AsyncIterator[None]:
        """Go through the steps before once more; all their attempts are kept."""
        self._visits, self._position = Visits(), 0
        for earlier in range(step):
            await self.next_batch(earlier)
        yield

    async def next_batch(self, step: int) -> Groups:
        """The groups of all rounds: those that are kept, then new ones, kept round by round."""
        groups = list(self.past_batch(step))
        self._skipped = self._looked = done = 0
        rounds = self._rounds(step)
        tasks = next(rounds)
        while tasks:
            if len(groups) == done:
                found = await self._attempt(tasks, step)
                self._ledger.keep(step + 1, [one for group in found for one in group])
                groups += found
            done += len(tasks)
            tasks = rounds.send(groups[:done])
        self._visits.add(map(self._visit, groups))
        return groups

    def past_batch(self, step: int) -> Groups:
        """The groups of an earlier step, those of all its rounds."""
        kept, size = self._ledger.kept(step + 1), self._selection.group_size
        return [kept[i : i + size] for i in range(0, len(kept), size)]

    async def learned(self) -> None:
        """The next batch takes the weights itself."""

    def oldest_needed(self, step: int) -> int:
        return step

    def observe(self) -> dict[str, float]:
        """`skipped_share` of the tasks that were looked at for the last batch; empty where none may be skipped."""
        return {"skipped_share": self._skipped / max(self._looked, 1)} if self._selection.skip else {}

    def _rounds(self, step: int) -> Generator[list[Task], Groups, None]:
        """Yields the tasks of each round of a step and is sent all groups so far; ends with an empty round."""
        tried: set[str] = set()
        tasks = self._choose(self._batches.size, tried)
        for refill in range(self._selection.max_refills + 1):
            groups = yield tasks
            missing = self._batches.size - sum(map(self._selection.teaches, groups))
            if missing <= 0 or refill == self._selection.max_refills:
                break
            tried |= {task.task_id for task in tasks}
            tasks = self._choose(missing, tried)
        yield []

    def _choose(self, count: int, tried: set[str]) -> list[Task]:
        """The next `count` tasks of the endless row of permutations that the step has not tried and nothing skips.

        Fewer when the step has tried nearly all there are; a task comes twice in a round only if the round has more
        places than there are tasks.
        """
        tasks, chosen = self._batches.tasks, list[Task]()
        free = len({task.task_id for task in tasks} - tried)
        for looked in range(len(tasks) * (SKIPPING_PASSES + 1) * -(-count // len(tasks))):
            if len(chosen) == (min(count, free) if tried else count):
                break
            task = tasks[self._row()]
            if task.task_id in tried or (count <= len(tasks) and task in chosen):
                continue
            self._looked += 1
            draw = np.random.default_rng(derive(self._batches.seed, "skip", self._position)).random()
            may_skip = self._selection.skip and looked < len(tasks) * SKIPPING_PASSES
            if may_skip and self._visits.skips(task.task_id, draw):
                self._skipped += 1
            else:
                chosen.append(task)
        return chosen

    def _row(self) -> int:
        """The task that comes next in a row of seeded permutations, one after the other."""
        epoch, offset = divmod(self._position, len(self._batches.tasks))
        if offset == 0:
            generator = np.random.default_rng(derive(self._batches.seed, "epoch", epoch))
            self._order = generator.permutation(len(self._batches.tasks))
        self._position += 1
        return int(self._order[offset])

    def _visit(self, group: Sequence[GradedAttempt]) -> tuple[str, Visit]:
        easy = all(one.outcome.success is True for one in group)
        kind: Visit = "mixed" if self._selection.teaches(group) else "easy" if easy else "hard"
        return group[0].attempt.task.task_id, kind

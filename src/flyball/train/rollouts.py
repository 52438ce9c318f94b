"""Where the batches of RL come from: attempts in turn with the updates, or ahead of them.

`InTurn`: the attempts of a step begin when the step before is in the weights. Nothing is stale; while the slowest
attempt of a step runs, the trainer waits. `Ahead`: while the trainer learns from one batch, attempts at the next
ones run, at most `max_off_policy_steps` batches ahead; what began is trained, however long it took (invariant 4).

`Ahead` loses nothing to a kill. Every attempt is kept when it is graded, every decision of the schedule is on disk
before anything is done about it. A resumed run goes back to the newest checkpoint that is not after the weights that
began an unfinished group; it learns again from what is kept, by the same decisions, up to where it was, and attempts
that were under way begin again with the same seed on the weights that began their group.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from flyball.engine.protocol import Engine
from flyball.graders.grade import waits
from flyball.rng import derive
from flyball.rollout.schedule import Admitted, Event, Schedule, Taken, in_step
from flyball.rollout.schedule_log import ScheduleLog
from flyball.rollout.scheduler import Job, Scheduler
from flyball.tasks.curriculum import CurriculumPlan, advance, begin, draw, family_shares
from flyball.train.fit import batch_at
from flyball.train.serving import Serving
from flyball.types import GradedAttempt, Task

Groups = Sequence[Sequence[GradedAttempt]]
Attempt_G = Callable[[Sequence[Task], int], Awaitable[list[list[GradedAttempt]]]]
"""(tasks, step) -> graded groups by the learner's current weights."""
Draw = Callable[[Engine, Task, int, int], Awaitable[GradedAttempt]]
"""(engine, task, number in the group, seed) -> one graded attempt."""
Rank = Callable[[Sequence[GradedAttempt]], Awaitable[list[GradedAttempt]]]
"""A whole group -> the same attempts, each with the reward that it gets beside the others."""


@dataclass(frozen=True)
class Ledger:
    """The record of attempts. Steps count from 1; an attempt is recorded with the step whose plan holds its task.

    `keep(step, graded)` writes all these attempts or none; of one that is kept already only a new judgement.
    `kept(step)` reads those of a step in the order they were written; empty when there are none.
    """

    keep: Callable[[int, Sequence[GradedAttempt]], None]
    kept: Callable[[int], Sequence[GradedAttempt]]


@dataclass(frozen=True)
class Batches:
    """Which tasks the groups are at: group g is task `g % size` of planned step `g // size`."""

    tasks: Sequence[Task]
    num_steps: int
    size: int
    seed: int

    def of_step(self, step: int) -> list[Task]:
        """The tasks of a planned step (from 0)."""
        return [self.tasks[row] for row in batch_at(len(self.tasks), self.size, self.seed, step)]

    def task(self, group: int) -> Task:
        return self.of_step(group // self.size)[group % self.size]

    def draw_seed(self, group: int, index: int) -> int:
        """The seed of attempt `index` of a group: its own, and that of `InTurn` where a step has its task once."""
        step, row = divmod(group, self.size)
        names = [task.task_id for task in self.of_step(step)]
        occurrence = names[:row].count(names[row])
        return derive(step_seed(self.seed, step), names[row], index, *([occurrence] if occurrence else []))


def step_seed(seed: int, step: int) -> int:
    """The seed of all draws of a planned step (from 0)."""
    return derive(seed, "rl", step)


class StepTasks(Protocol):
    """Which tasks a step is at. Steps are counted from 0; it is asked again for a step that is learned again."""

    def of_step(self, step: int) -> list[Task]: ...


class CurriculumTasks:
    """Tasks by a curriculum: what the steps before gave is read from the ledger, so a resumed run draws alike."""

    def __init__(self, plan: CurriculumPlan, tasks: Sequence[Task], size: int, seed: int, ledger: Ledger) -> None:
        self._plan, self._tasks, self._size, self._seed, self._ledger = plan, tasks, size, seed, ledger
        self._states = [begin(plan, tasks)]

    def of_step(self, step: int) -> list[Task]:
        """The tasks of a step, all of whose earlier steps are in the ledger."""
        while len(self._states) <= step:
            kept = self._ledger.kept(len(self._states))
            size = max(len(kept) // self._size, 1)
            groups = [kept[i : i + size] for i in range(0, len(kept), size)]
            self._states.append(advance(self._plan, self._states[-1], groups))
        return draw(self._plan, self._states[step], self._tasks, self._size, self._seed, step)

    def metrics(self) -> dict[str, float]:
        """Where the newest step stood."""
        state = self._states[-1]
        shares = family_shares(state.values, self._plan.temperature, self._plan.floor) if self._plan.by_family else {}
        room = {} if state.room is None else {"curriculum_room": float(state.room)}
        by_family = {f"curriculum_share/{family}": share for family, share in shares.items()}
        return {"curriculum_level": float(state.level), **room, **by_family}


class Rollouts(Protocol):
    """Batches for `run_rl`. Steps are counted from 0; step n is learned by the weights of n steps."""

    @property
    def resume_at(self) -> int | None:
        """A resumed run must start from a checkpoint that is not after this step; None = from the newest."""
        ...

    def from_step(self, step: int) -> AbstractAsyncContextManager[None]:
        """Attempts run while this is open. The learner's weights are those of `step` steps."""
        ...

    async def next_batch(self, step: int) -> Groups:
        """Wait for the batch to learn from."""
        ...

    def past_batch(self, step: int) -> Groups:
        """The batch of an earlier step, as it is kept."""
        ...

    async def learned(self) -> None:
        """The last batch is in the learner's weights."""
        ...

    def oldest_needed(self, step: int) -> int:
        """The oldest step, up to `step`, whose weights a resumed run would need now."""
        ...


class InTurn:
    """A batch is attempted when it is asked for. `attempt` uses the learner's current weights."""

    resume_at = None

    def __init__(self, batches: StepTasks, attempt: Attempt_G, ledger: Ledger) -> None:
        self._batches, self._attempt, self._ledger = batches, attempt, ledger

    @asynccontextmanager
    async def from_step(self, step: int) -> AsyncIterator[None]:
        """Nothing runs between batches."""
        yield

    async def next_batch(self, step: int) -> Groups:
        """One group per task: the attempts that are kept, else new ones, then kept."""
        if kept := self.past_batch(step):
            return kept
        groups = await self._attempt(self._batches.of_step(step), step)
        self._ledger.keep(step + 1, [g for group in groups for g in group])
        return groups

    def past_batch(self, step: int) -> Groups:
        """The attempts that are kept, one group per task; none where the step was not attempted."""
        kept = self._ledger.kept(step + 1)
        size = len(kept) // len(self._batches.of_step(step)) or 1
        return [kept[i : i + size] for i in range(0, len(kept), size)]

    async def learned(self) -> None:
        """The next batch takes the weights itself."""

    def oldest_needed(self, step: int) -> int:
        return step


@dataclass(frozen=True)
class Lead:
    """How far attempts may be ahead, and how many run at a time.

    With `in_step` nothing depends on time: which group begins on which weights, and is trained when, is that of a run
    in which every batch takes as long as an update (reference mode).
    """

    max_off_policy_steps: int
    group_size: int
    concurrency: int
    in_step: bool = False


class Ahead:
    """Attempts ahead of the learner. `log` is the file of the schedule's decisions.

    `rank`, where a reward depends on the group: asked when the group is learned from, unless what is kept of an earlier
    process was ranked already; the judgement is kept before anything is learned from it.
    """

    def __init__(
        self,
        batches: Batches,
        lead: Lead,
        serving: Serving,
        draw: Draw,
        ledger: Ledger,
        log: Path,
        rank: Rank | None = None,
    ) -> None:
        self._batches, self._lead, self._serving, self._draw, self._ledger = batches, lead, serving, draw, ledger
        self._rank = rank
        self._log = ScheduleLog(log)
        self._begun_before = {event.group for event in self._log.events if isinstance(event, Admitted)}
        self._of_step: dict[int, Mapping[int, GradedAttempt]] = {}
        self._scheduler: Scheduler[GradedAttempt] | None = None

    @cached_property
    def resume_at(self) -> int | None:
        """The version that began the oldest unfinished group, where its weights are needed again."""
        if not self._serving.needs_old_weights:
            return None
        begun = {event.group: event.version for event in self._log.events if isinstance(event, Admitted)}
        for event in self._log.events:
            for group in event.groups if isinstance(event, Taken) else ():
                del begun[group]
        size = self._lead.group_size
        return min((version for group, version in begun.items() if len(self._kept(group)) < size), default=None)

    @asynccontextmanager
    async def from_step(self, step: int) -> AsyncIterator[None]:
        """Attempts begin at once, and run until this is left; those under way are then cancelled."""
        await self._serving.publish(step)
        schedule = self._schedule(step)
        self._scheduler = Scheduler(
            schedule,
            self._attempt,
            group_size=self._lead.group_size,
            concurrency=self._lead.concurrency,
            record=self._log.append,
            kept=self._kept,
            hold=lambda version: self._serving.hold(version, set(schedule.open.values())),
        )
        try:
            async with self._scheduler:
                yield
        finally:
            self._log.close()

    async def next_batch(self, step: int) -> Groups:
        taken, groups = await self._running.next_batch()
        if self._rank is None:
            return groups
        return await asyncio.gather(*map(self._ranked, taken.groups, groups))

    async def _ranked(self, group: int, graded: Sequence[GradedAttempt]) -> Sequence[GradedAttempt]:
        if self._rank is None or not any(map(waits, graded)):
            return graded
        step = group // self._batches.size
        ranked = await self._rank(graded)
        self._ledger.keep(step + 1, ranked)
        self._of_step.pop(step, None)  # what was read of it before is not the judgement any more
        return ranked

    def past_batch(self, step: int) -> Groups:
        """See Rollouts: the groups that the log says were trained at this step."""
        size = self._lead.group_size
        taken = next(event for event in self._log.events if isinstance(event, Taken) and event.version == step)
        return [[self._kept(group)[index] for index in range(size)] for group in taken.groups]

    async def learned(self) -> None:
        """Publish the weights, then let the groups begin that they allow."""
        await self._running.version_may_change()
        await self._serving.publish(self._running.schedule.version + 1)
        self._running.trained()

    def oldest_needed(self, step: int) -> int:
        held = self._running.schedule.open.values() if self._serving.needs_old_weights else ()
        oldest: int = min([step, *held])
        return oldest

    @property
    def _running(self) -> Scheduler[GradedAttempt]:
        assert self._scheduler is not None, "batches come while from_step is open"
        return self._scheduler

    def _schedule(self, step: int) -> Schedule:
        plan = (self._batches.num_steps, self._batches.size, self._lead.max_off_policy_steps)
        events: Sequence[Event] = list(in_step(*plan)) if self._lead.in_step else self._log.events
        return Schedule(*plan, events=events, version=step, max_versions=self._serving.max_versions)

    async def _attempt(self, job: Job) -> GradedAttempt:
        task, seed = self._batches.task(job.group), self._batches.draw_seed(job.group, job.index)
        graded = await self._draw(self._serving.engine(job.version), task, job.index, seed)
        self._ledger.keep(job.group // self._batches.size + 1, [graded])
        return graded

    def _kept(self, group: int) -> dict[int, GradedAttempt]:
        """What an earlier process left of a group, by number in the group."""
        if group not in self._begun_before:
            return {}
        step = group // self._batches.size
        if step not in self._of_step:
            self._of_step[step] = {graded.attempt.seed: graded for graded in self._ledger.kept(step + 1)}
        seeds = [self._batches.draw_seed(group, index) for index in range(self._lead.group_size)]
        return {i: self._of_step[step][seed] for i, seed in enumerate(seeds) if seed in self._of_step[step]}

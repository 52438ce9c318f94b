"""The scheduler: complete groups, bounded, one path from synchronous to asynchronous, clean when stopped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from flyball.errors import ConfigError
from flyball.rollout.schedule import Admitted, Event, Schedule, Taken, in_step
from flyball.rollout.scheduler import Job, Scheduler


@dataclass
class Bench:
    """Attempts of drawn length that answer with their job, and a trainer that takes its time."""

    seed: int = 0
    running: int = 0
    most_running: int = 0
    done: list[Job] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    during_training: list[int] = field(default_factory=list)
    fail_at: Callable[[Job], bool] = lambda job: False

    def __post_init__(self) -> None:
        self._draw = Random(self.seed)

    async def attempt(self, job: Job) -> Job:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(self._draw.choice([1, 1, 2, 30])):
                await asyncio.sleep(0)
            if self.fail_at(job):
                raise OSError("disk full")
        finally:
            self.running -= 1
        self.done.append(job)
        return job

    async def train(self, schedule: Schedule, *, group_size: int = 2, concurrency: int = 4, **more: Any) -> list[Any]:
        batches = []
        record = self.events.extend
        async with Scheduler(
            schedule, self.attempt, group_size=group_size, concurrency=concurrency, record=record, **more
        ) as rollouts:
            while schedule.version < schedule.num_steps:
                batches.append(await rollouts.next_batch())
                for _ in range(5):
                    await asyncio.sleep(0)
                self.during_training.append(self.running)
                await rollouts.version_may_change()
                rollouts.trained()
        return batches


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def test_every_group_is_trained_once_whole_and_in_the_order_of_its_attempts() -> None:
    bench = Bench()
    batches = asyncio.run(bench.train(Schedule(5, 2, 2), group_size=3))
    assert Counter(group for taken, _ in batches for group in taken.groups) == Counter(range(10))
    for taken, groups in batches:
        for number, members in zip(taken.groups, groups, strict=True):
            assert [(job.group, job.index) for job in members] == [(number, index) for index in range(3)]
            assert len({job.version for job in members}) == 1, "a group is on one version"
    assert len(bench.done) == len(set(bench.done)) == 30


def test_without_staleness_nothing_runs_while_the_trainer_learns_and_time_decides_nothing() -> None:
    bench = Bench()
    asyncio.run(bench.train(Schedule(4, 3, 0)))
    assert bench.during_training == [0, 0, 0, 0]
    assert bench.events == list(in_step(4, 3, 0))


def test_with_staleness_attempts_run_while_the_trainer_learns() -> None:
    bench = Bench()
    asyncio.run(bench.train(Schedule(6, 2, 2)))
    assert max(bench.during_training[:-2]) > 0


def test_concurrency_is_reached_and_not_passed() -> None:
    bench = Bench()
    asyncio.run(bench.train(Schedule(4, 5, 1), group_size=3, concurrency=5))
    assert bench.most_running == 5


@pytest.mark.parametrize("seed", range(5))
def test_a_log_is_followed_when_attempts_take_other_times(seed: int) -> None:
    first, again = Bench(0), Bench(seed)
    log = first.events
    batches = asyncio.run(first.train(Schedule(6, 2, 2)))
    followed = asyncio.run(again.train(Schedule(6, 2, 2, events=log)))
    assert [taken for taken, _ in followed] == [taken for taken, _ in batches]
    assert followed == batches, "members and the versions they began on, too"
    assert again.events == log


def test_what_an_earlier_process_left_is_not_attempted_again() -> None:
    whole = Bench()
    batches = asyncio.run(whole.train(Schedule(4, 2, 1)))
    cut = whole.events.index(next(event for event in whole.events if event.version == 2))
    log, left = whole.events[:cut], {job for job in whole.done if job.version < 2 and job.index == 0}
    resumed = Bench(3)

    def kept(group: int) -> dict[int, Job]:
        return {job.index: job for job in left if job.group == group}

    again = asyncio.run(resumed.train(Schedule(4, 2, 1, events=log), kept=kept))
    assert left and not left & set(resumed.done)
    assert len(resumed.done) + len(left) == 4 * 2 * 2
    assert [taken for taken, _ in again][:1] == [taken for taken, _ in batches][:1]
    assert Counter(job for _, groups in again for members in groups for job in members).most_common(1)[0][1] == 1


def test_weights_are_held_for_groups_that_begin_and_not_for_those_that_are_complete() -> None:
    held: list[int] = []
    complete = {0: {0: Job(0, 0, 0)}}
    schedule = Schedule(2, 1, 0, events=[Admitted(0, 0)])
    asyncio.run(Bench().train(schedule, group_size=1, kept=lambda group: complete.get(group, {}), hold=held.append))
    assert held == [1]


def test_a_slow_attempt_does_not_hold_up_other_groups() -> None:
    gate = asyncio.Event()

    async def attempt(job: Job) -> Job:
        if (job.group, job.index) == (0, 0):
            await gate.wait()
        return job

    async def go() -> list[tuple[int, ...]]:
        taken = []
        async with Scheduler(Schedule(3, 1, 2), attempt, group_size=2, concurrency=3) as rollouts:
            for step in range(3):
                if step == 2:
                    gate.set()
                taken.append((await rollouts.next_batch())[0].groups)
                rollouts.trained()
        return taken

    assert asyncio.run(go()) == [(1,), (2,), (0,)]


def test_an_error_is_raised_and_stops_the_rest() -> None:
    bench = Bench(fail_at=lambda job: job.group == 2)

    async def go() -> None:
        with pytest.raises(OSError, match="disk full"):
            await bench.train(Schedule(9, 2, 3))
        assert not others()

    asyncio.run(go())
    assert bench.running == 0 and len(bench.done) < 36


def test_decisions_that_cannot_be_kept_stop_it() -> None:
    """A full disk when an attempt's end admits the next group: raised, not swallowed by the event loop."""
    bench = Bench()
    written: list[Event] = []

    def record(events: Sequence[Event]) -> None:
        if len(written) >= 3:
            raise OSError("disk full")
        written.extend(events)

    async def go() -> None:
        with pytest.raises(OSError, match="disk full"):
            async with Scheduler(
                Schedule(9, 2, 3), bench.attempt, group_size=1, concurrency=1, record=record
            ) as rollouts:
                while True:
                    await rollouts.next_batch()
                    rollouts.trained()

    asyncio.run(asyncio.wait_for(go(), 10))


def test_leaving_early_leaves_nothing_running() -> None:
    bench = Bench()

    async def go() -> None:
        async with Scheduler(Schedule(9, 2, 3), bench.attempt, group_size=2, concurrency=8) as rollouts:
            await rollouts.next_batch()
        assert not others()

    asyncio.run(go())
    assert bench.running == 0


def test_a_schedule_that_cannot_be_followed_is_said_and_not_waited_for() -> None:
    events: list[Event] = [Admitted(0, 0), Taken((0, 1), 0)]
    with pytest.raises(ConfigError, match="a batch is awaited and nothing is running at version 0"):
        asyncio.run(Bench().train(Schedule(2, 2, 0, events=events)))


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_size 0"):
        asyncio.run(Bench().train(Schedule(1, 1), group_size=0))

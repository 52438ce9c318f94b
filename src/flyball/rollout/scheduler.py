"""Attempts at the groups that a schedule admits, so many at a time, given to the trainer in batches.

    async with Scheduler(schedule, attempt, group_size=8, concurrency=64) as rollouts:
        taken, groups = await rollouts.next_batch()     # others go on while the caller learns from these
        ...
        await rollouts.version_may_change()
        rollouts.trained()                              # opens admission for the next batch

A group begins when its first attempt does; its members begin together, so groups complete early. With a schedule of
staleness 0 nothing runs while the caller learns: that is synchronous training, by the same path.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from flyball.errors import ConfigError
from flyball.rollout.schedule import Admitted, Event, Schedule, Taken

T = TypeVar("T")
E = TypeVar("E", Admitted, Taken)


@dataclass(frozen=True)
class Job:
    """Attempt `index` of group `group`, which began on policy version `version`."""

    group: int
    index: int
    version: int


class Scheduler(Generic[T]):
    """Runs `attempt` for every job of the groups that `schedule` admits, at most `concurrency` at a time.

    `record` is told every decision, followed or new, before anything is done about it. `kept(group)` gives the results
    of a group that an earlier process left, by index: only what is missing is attempted. `hold(version)` is called when
    a group begins that needs weights of this version until it is finished. An error of an attempt cancels the others
    and is raised by `next_batch`; leaving the context cancels what runs and waits for its end.
    """

    def __init__(
        self,
        schedule: Schedule,
        attempt: Callable[[Job], Awaitable[T]],
        *,
        group_size: int,
        concurrency: int,
        record: Callable[[Sequence[Event]], None] = lambda events: None,
        kept: Callable[[int], Mapping[int, T]] = lambda group: {},
        hold: Callable[[int], None] = lambda version: None,
    ) -> None:
        if group_size < 1 or concurrency < 1:
            raise ConfigError(f"group_size {group_size} and concurrency {concurrency} must both be at least 1")
        self.schedule = schedule
        self._attempt, self._record, self._kept, self._hold = attempt, record, kept, hold
        self._group_size, self._concurrency = group_size, concurrency
        self._results: dict[int, dict[int, T]] = {}
        self._jobs: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._decided: list[Event] = []
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Scheduler[T]:
        for group, version in sorted(self.schedule.open.items()):
            self._begin(group, version)
        self._advance()
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._jobs.clear()
        self._concurrency = 0  # nothing begins any more
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def num_running(self) -> int:
        return len(self._running)

    async def next_batch(self) -> tuple[Taken, list[list[T]]]:
        """Wait for the next batch: which groups it is, and their results in the order of the attempts."""
        while (taken := self._decide(self.schedule.take)) is None:
            await self._change("a batch")
        self._advance()
        return taken, [self._members(group) for group in taken.groups]

    async def version_may_change(self) -> None:
        """Wait until every group that must begin on this version has. It waits only where a schedule is followed."""
        while not self.schedule.may_advance:
            await self._change("a group that began on this version")

    def trained(self) -> None:
        """The weights are those of the next version: admit what it allows."""
        self.schedule.trained()
        self._advance()

    def _members(self, group: int) -> list[T]:
        results = self._results.pop(group)
        return [results[index] for index in range(self._group_size)]

    async def _change(self, awaited: str) -> None:
        """Wait for the end of an attempt. Raises the error of an attempt, ConfigError when nothing runs any more."""
        if self._failure is None and not self._running:
            raise ConfigError(
                f"{awaited} is awaited and nothing is running at version {self.schedule.version}: the schedule that is "
                "followed does not fit this plan; remove its log to decide anew"
            )
        if self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    def _advance(self) -> None:
        """Begin what may begin. Attempts that were started run when this has returned, and the decisions are kept."""
        self._begin_what_may()
        decided, self._decided = self._decided, []
        if decided:
            self._record(decided)

    def _begin_what_may(self) -> None:
        while len(self._running) < self._concurrency and self._failure is None:
            if not self._jobs and not self._admit():
                return
            if self._jobs:
                self._start(self._jobs.popleft())

    def _admit(self) -> bool:
        admitted = self._decide(self.schedule.admit)
        if admitted is not None:
            self._begin(admitted.group, admitted.version)
        return admitted is not None

    def _decide(self, decide: Callable[[], E | None]) -> E | None:
        """Ask the schedule, and note what it says."""
        event = decide()
        if event is not None:
            self._decided.append(event)
        return event

    def _begin(self, group: int, version: int) -> None:
        results = dict(self._kept(group))
        self._results[group] = results
        self._jobs += (Job(group, index, version) for index in range(self._group_size) if index not in results)
        if len(results) == self._group_size:
            self.schedule.finish(group)
        else:
            self._hold(version)

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._run(job), name=f"flyball attempt {job.group}.{job.index}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _run(self, job: Job) -> None:
        result = await self._attempt(job)
        results = self._results[job.group]
        results[job.index] = result
        if len(results) == self._group_size:
            self.schedule.finish(job.group)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            try:
                self._advance()
            except BaseException as refused:  # nobody is above a callback: `next_batch` raises it
                error = refused
        if error is not None and self._failure is None:
            self._failure = error
            for other in self._running:
                other.cancel()
        self._changed.set()

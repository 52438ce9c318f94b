"""Groups of attempts, so many at a time, given out as they finish.

Attempts start in the order of the tasks, a group's members together, so groups complete early. The seed of an attempt
comes from the task and its number, never from the order in which attempts happened to run: the same task has the same
seeds in every run with the same seed, which is what lets versions be compared on the same draws.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flyball.errors import ConfigError
from flyball.rng import derive
from flyball.rollout.attempt import run_attempt
from flyball.types import Attempt, AttemptGroup, Task

OnAttempt = Callable[[Attempt], Awaitable[None] | None]


@dataclass
class _Group:
    task: Task
    size: int
    attempts: dict[int, Attempt] = field(default_factory=dict)

    def finished(self) -> AttemptGroup:
        return AttemptGroup(self.task, tuple(self.attempts[i] for i in range(self.size)))


@dataclass(frozen=True)
class _Failed:
    error: BaseException


async def rollout_groups(
    tasks: Iterable[Task],
    group_size: int,
    *,
    concurrency: int,
    seed: int,
    on_attempt: OnAttempt | None = None,
    **attempt: Any,
) -> AsyncIterator[AttemptGroup]:
    """Attempt every task `group_size` times, `concurrency` attempts at a time; yield groups as they finish.

    `on_attempt` (sync or async) is called with every finished attempt before its group is given out. `attempt` is
    passed to `run_attempt`. An error that no re-run cures, or one of `on_attempt`, cancels the rest and is raised.
    Leaving the loop early cancels what runs; close the iterator (`contextlib.aclosing`) to wait for that.
    """
    if group_size < 1 or concurrency < 1:
        raise ConfigError(f"group_size {group_size} and concurrency {concurrency} must both be at least 1")
    jobs = _jobs(tasks, group_size, seed)
    finished: asyncio.Queue[AttemptGroup | _Failed | None] = asyncio.Queue()

    async def work() -> None:
        try:
            for group, index, attempt_seed in jobs:
                done = await run_attempt(group.task, seed=attempt_seed, group_index=index, **attempt)
                await _tell(on_attempt, done)
                group.attempts[index] = done
                if len(group.attempts) == group.size:
                    finished.put_nowait(group.finished())
            finished.put_nowait(None)
        except BaseException as error:  # whoever iterates waits on the queue, so every end of a worker goes there
            finished.put_nowait(_Failed(error))
            raise

    workers = [asyncio.create_task(work(), name=f"flyball rollout {i}") for i in range(concurrency)]
    try:
        num_working = concurrency
        while num_working:
            item = await finished.get()
            if isinstance(item, _Failed):
                raise item.error
            if item is None:
                num_working -= 1
            else:
                yield item
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _jobs(tasks: Iterable[Task], group_size: int, seed: int) -> Iterator[tuple[_Group, int, int]]:
    """(group, number in the group, seed) in the order of the tasks; a task that comes twice is drawn anew."""
    occurrences: Counter[str] = Counter()
    for task in tasks:
        group = _Group(task, group_size)
        occurrence = occurrences[task.task_id]
        occurrences[task.task_id] += 1
        for index in range(group_size):
            yield group, index, derive(seed, task.task_id, occurrence, index)


async def _tell(on_attempt: OnAttempt | None, attempt: Attempt) -> None:
    if on_attempt is None:
        return
    waiting = on_attempt(attempt)
    if inspect.isawaitable(waiting):
        await waiting

"""Groups of attempts: complete, bounded, seeded by task and number, and clean when stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import ConfigError, DatasetError
from flyball.rollout.scheduler import rollout_groups
from flyball.tasks.world import WorldSpec
from flyball.types import Attempt, AttemptGroup, Task


class Echo:
    def reset(self, text: str) -> str:
        return text


class Counting(FakeEngine):
    """Counts how many completions are drawn at the same time."""

    running = 0
    most = 0

    async def generate(self, request: Request) -> Completion:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await super().generate(request)
        finally:
            self.running -= 1


def tasks(n: int) -> list[Task]:
    return [Task(f"t{i}", {"text": f"text {i}"}) for i in range(n)]


def settings(engine: FakeEngine) -> dict[str, Any]:
    return {
        "world": WorldSpec(Echo),
        "runner": ToolLoop(),
        "engine": engine,
        "chat": engine.chat,
        "sampling": SamplingParams(),
    }


async def collect(
    of: Sequence[Task], group_size: int, engine: FakeEngine, *, concurrency: int = 4, seed: int = 0, **more: Any
) -> list[AttemptGroup]:
    groups = rollout_groups(of, group_size, concurrency=concurrency, seed=seed, **more, **settings(engine))
    return [group async for group in groups]


def seeded() -> FakeEngine:
    return FakeEngine(lambda prompt: f"{prompt.messages[-1]['content']} {prompt.seed}")


def answers(groups: Sequence[AttemptGroup]) -> dict[str, list[str]]:
    return {group.task.task_id: [attempt.answer for attempt in group.attempts] for group in groups}


def test_every_task_comes_back_once_with_its_whole_group_in_order() -> None:
    groups = asyncio.run(collect(tasks(5), 3, seeded()))
    assert sorted(group.task.task_id for group in groups) == [f"t{i}" for i in range(5)]
    for group in groups:
        assert [attempt.group_index for attempt in group.attempts] == [0, 1, 2]
        assert all(attempt.task is group.task for attempt in group.attempts)
        assert len({attempt.answer for attempt in group.attempts}) == 3


def test_draws_belong_to_the_task_and_not_to_the_order_of_work() -> None:
    one = answers(asyncio.run(collect(tasks(4), 2, seeded(), concurrency=1)))
    many = answers(asyncio.run(collect(tasks(4)[::-1], 2, seeded(), concurrency=7)))
    other = answers(asyncio.run(collect(tasks(4), 2, seeded(), seed=1)))
    assert one == many
    assert all(one[name] != other[name] for name in one)


def test_a_task_that_comes_twice_is_drawn_anew() -> None:
    first, second = asyncio.run(collect(tasks(1) * 2, 2, seeded()))
    assert len({attempt.answer for group in (first, second) for attempt in group.attempts}) == 4


def test_concurrency_is_reached_and_not_passed() -> None:
    engine = Counting(["x"], delay_seconds=0.005)
    asyncio.run(collect(tasks(6), 3, engine, concurrency=5))
    assert engine.most == 5


def test_a_slow_attempt_does_not_hold_up_other_groups() -> None:
    gate = asyncio.Event()

    class Stuck(FakeEngine):
        async def generate(self, request: Request) -> Completion:
            if len(self.requests) == 0:
                self.requests.append(request)
                await gate.wait()
            return await super().generate(request)

    async def go() -> list[str]:
        order = []
        async for group in rollout_groups(tasks(4), 2, concurrency=2, seed=0, **settings(Stuck(["x"]))):
            order.append(group.task.task_id)
            if len(order) == 3:
                gate.set()
        return order

    assert asyncio.run(go()) == ["t1", "t2", "t3", "t0"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_attempt_is_told_before_its_group(asynchronous: bool) -> None:
    told: list[str] = []

    async def later(attempt: Attempt) -> None:
        await asyncio.sleep(0)
        told.append(attempt.attempt_id)

    def now(attempt: Attempt) -> None:
        told.append(attempt.attempt_id)

    async def go() -> None:
        on_attempt = later if asynchronous else now
        groups = rollout_groups(tasks(3), 2, concurrency=3, seed=0, on_attempt=on_attempt, **settings(seeded()))
        async for group in groups:
            assert {attempt.attempt_id for attempt in group.attempts} <= set(told)

    asyncio.run(go())
    assert len(set(told)) == 6


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def test_leaving_early_leaves_nothing_running() -> None:
    engine = Counting(["x"], delay_seconds=0.001)

    async def go() -> None:
        async with contextlib.aclosing(rollout_groups(tasks(50), 2, concurrency=8, seed=0, **settings(engine))) as got:
            async for _ in got:
                break
        assert not others()

    asyncio.run(go())
    assert engine.running == 0
    assert {request.session for request in engine.requests} <= set(engine.ended_sessions)
    assert len(engine.requests) < 100


def test_cancelling_leaves_nothing_running() -> None:
    engine = Counting(["x"], delay_seconds=60)

    async def go() -> None:
        running = asyncio.create_task(collect(tasks(5), 4, engine, concurrency=8))
        while engine.running < 8:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not others()

    asyncio.run(go())
    assert engine.running == 0
    assert len(engine.ended_sessions) == 8


def test_an_error_that_no_rerun_cures_is_raised_and_stops_the_rest() -> None:
    engine = Counting(["x"], delay_seconds=0.01)
    unfit = [*tasks(3), Task("bad", {"words": "x"}), *tasks(50)]

    async def go() -> None:
        with pytest.raises(DatasetError, match="bad"):
            await collect(unfit, 1, engine)
        assert not others()

    asyncio.run(go())
    assert len(engine.requests) < 50


def test_a_store_that_cannot_write_stops_the_run() -> None:
    def refuse(attempt: Attempt) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        asyncio.run(collect(tasks(3), 1, seeded(), on_attempt=refuse))


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_size 0"):
        asyncio.run(collect(tasks(1), 0, seeded()))

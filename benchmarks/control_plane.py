"""What the machinery around an attempt costs when model and tools cost nothing, and what a stuck tool costs the others.

    python -m benchmarks.control_plane

Scripted engine, real agent loop, door, world, tools, scheduler. The store is apart: nothing is written.
"""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.models.fake import ROLES, tool_call_text
from flyball.rollout.activity import Board
from flyball.rollout.attempt import run_attempt
from flyball.rollout.schedule import Schedule
from flyball.rollout.scheduler import Job, Scheduler
from flyball.tasks.world import WorldSpec
from flyball.types import Attempt, Limits, StopReason, Task

NAME = "control_plane"
TURNS, GROUP, CONCURRENCY = 4, 8, 64
MICROSECONDS, LOSS, WAITING = 200.0, 0.01, 1.5
STUCK_ROLLOUTS, WAIT_ROLLOUTS, TOOL_SECONDS = 1000, 32, 0.1
ASSISTANT = ROLES["assistant"]
LIMITS = Limits(max_turns=TURNS, tool_timeout_seconds=3600.0, max_seconds=3600.0)


class Null:
    """A world whose tool costs nothing."""

    def reset(self, number: int) -> str:
        """Any number will do."""
        self._number = number
        return "go"

    async def look(self, place: int) -> str:
        """Look at a place."""
        return "nothing"


class Waiting:
    """A world whose tool blocks a thread for a while; that of attempt 0 never returns while `stuck` is set."""

    seconds = TOOL_SECONDS
    stuck = threading.Event()
    release = threading.Event()

    def reset(self, number: int) -> str:
        """Any number will do."""
        self._number = number
        return "go"

    def look(self, place: int) -> str:
        """Look at a place."""
        if self._number == 0 and self.stuck.is_set():
            self.release.wait()
        time.sleep(self.seconds)
        return "nothing"


SCRIPT = [*(tool_call_text("look", place=turn) for turn in range(TURNS - 1)), "done"]
"""One tool call a turn, each another, then an answer."""


class NullModel(FakeEngine):
    """A model that costs nothing: what it says in a turn is made once, and nothing is remembered."""

    def __init__(self) -> None:
        super().__init__(SCRIPT)
        self._said: dict[int, Completion] = {}

    async def generate(self, request: Request) -> Completion:
        turn = request.prompt_ids.count(ASSISTANT) - 1
        if turn not in self._said:
            self._said[turn] = await super().generate(request)
        return self._said[turn]

    async def end_session(self, session: str) -> None:
        """Nothing is held."""


async def attempts(world: type, number: int, concurrency: int, watch: Callable[[Job], None] = lambda job: None) -> int:
    """Attempt tasks 0 to `number` - 1 under the scheduler, one attempt each; return the turns of all."""
    engine, spec, board, turns = NullModel(), WorldSpec(world), Board(), 0
    sampling = SamplingParams(max_new_tokens=256)

    async def one(job: Job) -> Attempt:
        nonlocal turns
        attempt = await run_attempt(
            Task(f"t-{job.group}", {"number": job.group}, limits=LIMITS),
            world=spec,
            runner=RUNNER,
            engine=engine,
            chat=engine.chat,
            sampling=sampling,
            seed=job.group,
            board=board,
        )
        assert attempt.stop is StopReason.ANSWERED, attempt.stop
        turns += len(attempt.trajectory.calls)
        watch(job)
        return attempt

    async with Scheduler(Schedule(1, number), one, group_size=1, concurrency=concurrency) as rollouts:
        await rollouts.next_batch()
    return turns


RUNNER = ToolLoop()


def overhead(number: int) -> dict[str, Any]:
    """Microseconds a turn: processor time of this process over all turns of `number` trajectories."""
    started, wall = time.process_time(), time.perf_counter()
    turns = asyncio.run(attempts(Null, number, CONCURRENCY))
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"us_per_turn": 1e6 * seconds / turns, "wall_us_per_turn": 1e6 * wall / turns, "peak_gib": peak}


def with_a_stuck_tool(stuck: bool, number: int) -> dict[str, Any]:
    """Seconds until all but attempt 0 of `number` concurrent rollouts have ended."""
    Waiting.release.clear()
    Waiting.stuck.set() if stuck else Waiting.stuck.clear()
    started, left, seconds = time.perf_counter(), number - 1, 0.0

    def watch(job: Job) -> None:
        nonlocal left, seconds
        left -= job.group != 0
        if not left:
            seconds = seconds or time.perf_counter() - started
            Waiting.release.set()

    asyncio.run(attempts(Waiting, number, number, watch))
    return {"stuck": stuck, "seconds": seconds}


def waiting(rollouts: int) -> dict[str, Any]:
    """Wall time of `rollouts` concurrent attempts whose tools sleep."""
    Waiting.stuck.clear()
    started = time.perf_counter()
    asyncio.run(attempts(Waiting, rollouts, rollouts))
    return {"seconds": time.perf_counter() - started}

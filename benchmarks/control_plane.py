"""What the machinery around an attempt costs when model and tools cost nothing, and what a stuck tool costs the others.

    python -m benchmarks.control_plane

Scripted engine, real agent loop, door, world, tools, scheduler. The store is apart: nothing is written.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.result import Finding, append_row, median_ratio, publish, read_rows, rows_file
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
PAIRS = 5
"""Times in a repeat that rollouts with and without a stuck tool are timed, one after the other."""
FREE, STUCK = "free_seconds", "stuck_seconds"
MICROSECONDS, LOSS, WAITING = 200.0, 0.01, 1.5
STUCK_ROLLOUTS, WAIT_ROLLOUTS, TOOL_SECONDS = 1000, 32, 0.1
ASSISTANT = ROLES["assistant"]
LIMITS = Limits(max_turns=TURNS + 1, tool_timeout_seconds=3600.0, max_seconds=3600.0)


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


SCRIPT = [*(tool_call_text("look", place=turn) for turn in range(TURNS)), "done"]
"""A tool call in each of the turns, each another, then an answer."""


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


def pair(stuck_first: bool) -> dict[str, float]:
    """The same rollouts with a stuck tool and without one."""
    order = (True, False) if stuck_first else (False, True)
    return {STUCK if stuck else FREE: with_a_stuck_tool(stuck, STUCK_ROLLOUTS) for stuck in order}


def with_a_stuck_tool(stuck: bool, number: int) -> float:
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
    return seconds


def waiting(rollouts: int) -> dict[str, Any]:
    """Wall time of `rollouts` concurrent attempts whose tools sleep."""
    Waiting.stuck.clear()
    started = time.perf_counter()
    asyncio.run(attempts(Waiting, rollouts, rollouts))
    return {"seconds": time.perf_counter() - started}


def measure(repeats: int, number: int, file: Path) -> None:
    """Every measurement `repeats` times, in turn; a repeat that is on record is not run again."""
    asyncio.run(attempts(Null, 100, CONCURRENCY))  # imports and caches
    for repeat in range(len(read_rows(file)), repeats):
        append_row(
            file,
            {
                "repeat": repeat,
                "trajectories": number,
                **overhead(number),
                "pairs": [pair(stuck_first=bool(i % 2)) for i in range(PAIRS)],
                "waiting_seconds": waiting(WAIT_ROLLOUTS)["seconds"],
            },
        )
        print(read_rows(file)[-1], flush=True)


def findings(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What the rows say: medians over repeats, with their range."""
    number = rows[0]["trajectories"]
    return [
        _finding(
            "turn",
            f"control plane over {number} trajectories of {TURNS} turns, null model and tools, store apart",
            [row["us_per_turn"] for row in rows],
            "us of processor time a turn",
            MICROSECONDS,
            wall=[row["wall_us_per_turn"] for row in rows],
            peak_gib=[row["peak_gib"] for row in rows],
        ),
        _stuck([each for row in rows for each in row["pairs"]]),
        _finding(
            "waiting",
            f"{WAIT_ROLLOUTS} rollouts x {TURNS} turns x {TOOL_SECONDS} s tools that block their thread: wall time",
            [row["waiting_seconds"] for row in rows],
            "s",
            WAITING,
        ),
    ]


def _stuck(pairs: Sequence[Mapping[str, float]]) -> Finding:
    ratio, bounds, n = median_ratio(pairs, STUCK, FREE)
    return Finding(
        f"{NAME}.stuck",
        f"{STUCK_ROLLOUTS} concurrent rollouts, one tool stuck: what the others lose",
        f"share of their time, median over {n} pairs: the 95 % interval below {LOSS:.0%}",
        ratio - 1,
        (bounds[0] - 1, bounds[1] - 1),
        n,
        "share of their time",
        bounds[1] - 1 < LOSS,
        {name: [each[name] for each in pairs] for name in (FREE, STUCK)},
    )


def _finding(name: str, claim: str, values: Sequence[float], unit: str, most: float, **details: Any) -> Finding:
    value, spread = statistics.median(values), (min(values), max(values))
    target = f"median of {len(values)} at most {most:g} {unit}"
    return Finding(f"{NAME}.{name}", claim, target, value, spread, len(values), unit, value <= most, {**details})


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--trajectories", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--reasons", type=click.Path(path_type=Path, dir_okay=False), help="JSON: why a claim was missed, by id.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where results go.")
def main(repeats: int, trajectories: int, reasons: Path | None, folder: Path | None) -> None:
    """Run the repeats that are not on record, then write the results."""
    where = {} if folder is None else {"folder": folder}
    file = rows_file(NAME, **where)
    measure(repeats, trajectories, file)
    command = f"python -m benchmarks.{NAME} --repeats {repeats} --trajectories {trajectories}"
    known = json.loads(reasons.read_text()) if reasons else {}
    for result in publish(NAME, findings(read_rows(file)), command=command, reasons=known, **where):
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:24} {result.value:8.3f} {result.unit}")


if __name__ == "__main__":
    main()

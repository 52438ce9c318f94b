"""Conversations to imitate: recorded ones, or those of the workflow's oracle at the training tasks.

An oracle's conversation is made by the one path (world, loop, tools) and kept only if the success grader agrees, so a
policy is never shown a failure as the thing to do. Recorded conversations are taken as they are: they may be what
people did, mistakes included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from flyball.agent.runner import AgentEnd, AgentRunner
from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.errors import DatasetError
from flyball.evals.run import require_some
from flyball.evals.scripted import ScriptedAgent
from flyball.rollout.attempt import run_attempt
from flyball.tasks.world import World
from flyball.types import Limits, Missing, Task
from flyball.workflow.inputs import TRAIN, VALIDATION, Inputs
from flyball.workflow.trainer import Demonstration

HELD_OUT = 20
"""Without validation tasks to demonstrate, one demonstration in this many is kept apart for validation."""

AT_ONCE = 32


async def make_demonstrations(
    inputs: Inputs, on_done: Callable[[int, int], None]
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return demonstrations to learn from and to validate on. Raises DatasetError when there is nothing to imitate."""
    recorded = _read_rows(inputs)
    tasks, settings = inputs.split(TRAIN), inputs.workflow.settings.training.sft
    most = settings.max_demonstrations if settings else None
    if recorded is not None:
        train = _from_rows(inputs, recorded, tasks)
        validation = _from_rows(inputs, recorded, inputs.splits.get(VALIDATION, []))
    else:
        train = await _from_oracle(inputs, tasks[:most], on_done)
        validation = await _from_oracle(inputs, inputs.splits.get(VALIDATION, [])[: len(train)], on_done)
    train = train[:most]
    if not train:
        raise DatasetError("no demonstration of a training task succeeded; `flyball doctor` shows what the oracle does")
    if not validation:
        validation, train = train[::HELD_OUT], [d for i, d in enumerate(train) if i % HELD_OUT]
    return train, validation


# --- the oracle ------------------------------------------------------------------------------------------------------


class _Recorder:
    """Runs the oracle and remembers which tools the task was shown."""

    def __init__(self, runner: AgentRunner) -> None:
        self._runner = runner
        self.tools: dict[str, tuple[dict[str, Any], ...]] = {}

    @property
    def name(self) -> str:
        return self._runner.name

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        self.tools[world.task.task_id] = tuple(world.schemas)
        return await self._runner.run(world, door, limits)


async def _from_oracle(
    inputs: Inputs, tasks: Sequence[Task], on_done: Callable[[int, int], None]
) -> list[Demonstration]:
    if inputs.workflow.oracle is None:
        return []
    recorder = _Recorder(ScriptedAgent(inputs.workflow.oracle, inputs.hooks))
    engine = FakeEngine([""])  # never asked: the script gives every turn
    gate, done = asyncio.Semaphore(AT_ONCE), 0

    outcomes: list[bool | Missing] = []

    async def one(task: Task) -> Demonstration | None:
        nonlocal done
        async with gate:
            attempt = await run_attempt(
                task,
                world=inputs.world,
                runner=recorder,
                engine=engine,
                chat=engine.chat,
                sampling=SamplingParams(),
                seed=0,
            )
            graded = await inputs.graders.grade(attempt)
        done += 1
        on_done(done, len(tasks))
        outcomes.append(graded.outcome.success)
        if graded.outcome.success is not True:
            return None
        return Demonstration(task.task_id, attempt.messages, recorder.tools[task.task_id])

    made = await asyncio.gather(*(one(task) for task in tasks))
    require_some(outcomes, "demonstrations of the oracle")
    return [demonstration for demonstration in made if demonstration is not None]


# --- recorded conversations ------------------------------------------------------------------------------------------


def _read_rows(inputs: Inputs) -> list[Mapping[str, Any]] | None:
    """Return rows of `{"id": task id, "messages": [...], "tools": [...] (optional)}`, None when nothing is recorded."""
    source = inputs.workflow.demonstrations
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        return list(read_lines(inputs.workflow.folder / source))
    rows = source() if callable(source) else source
    return list(rows)


def read_lines(path: Path) -> Iterable[Mapping[str, Any]]:
    """Yield the rows of a conversation file. Raises DatasetError with file:line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read: {exc.strerror}; name a file of recorded conversations") from exc
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise DatasetError(f"{path}:{number}: not JSON: {exc}") from exc
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("messages"), list):
            raise DatasetError(f'{path}:{number}: a row is {{"id": task id, "messages": [...]}}, got {line[:60]!r}')
        yield row


def _from_rows(inputs: Inputs, rows: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> list[Demonstration]:
    known = {task.task_id: task for task in tasks}
    return [
        Demonstration(
            row["id"], tuple(row["messages"]), tuple(row.get("tools") or inputs.world.schemas(known[row["id"]]))
        )
        for row in rows
        if row["id"] in known
    ]

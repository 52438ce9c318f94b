"""One attempt: open the world, let the agent drive the policy through the door, keep everything that happened.

What went wrong around the policy (world, agent program, engine) is not the policy's failure: the same attempt, with
the same seed, is run again up to `MAX_RERUNS` times and then returned with the fault as its stop reason, so that
grading makes it Missing and not zero. What the policy did wrong is a result and is never run again (invariant 2).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flyball.agent.runner import AgentEnd, AgentRunner
from flyball.capture.best_of import NOT_GIVEN_TOKENS, BestOf
from flyball.capture.door import Door
from flyball.engine.protocol import Engine, SamplingParams
from flyball.errors import Fault, ToolServerError, WorldError
from flyball.models.chat import ChatFormat
from flyball.rollout.activity import Board, EngineOnBoard, OnBoard
from flyball.rollout.prices import Prices
from flyball.tasks.world import WorldSpec
from flyball.types import Attempt, Call, StopReason, Task, Trajectory, Usage

MAX_RERUNS = 2


async def run_attempt(
    task: Task,
    *,
    world: WorldSpec,
    runner: AgentRunner,
    engine: Engine,
    chat: ChatFormat,
    sampling: SamplingParams,
    seed: int,
    group_index: int = 0,
    versions: Mapping[str, str] | None = None,
    prices: Prices | None = None,
    board: Board | None = None,
    best_of: BestOf | None = None,
) -> Attempt:
    """Attempt `task` once. `versions` is kept with the attempt, completed by the world's and the agent's.

    What the attempt waits for is on the `board` while it does. Raises DatasetError, ConfigError, ModelError and
    EngineLostError, which no re-run cures; every other fault is a StopReason.
    """
    world.check(task)
    attempt = Attempt(
        attempt_id=f"at_{uuid.uuid4().hex}",
        task=task,
        trajectory=Trajectory((), StopReason.CANCELLED),
        messages=(),
        group_index=group_index,
        seed=seed,
        versions={"world": world.version, "agent": runner.name, **_approver(world), **(versions or {})},
    )
    spent = partial(_spent, prices or Prices())
    watched = OnBoard(board or Board(), attempt.attempt_id, task.task_id)
    seen = EngineOnBoard(engine, watched)
    for _ in range(1 + MAX_RERUNS):
        session = f"{attempt.attempt_id}-{uuid.uuid4().hex[:8]}"
        door = Door(
            seen, chat, sampling, limits=task.limits, seed=seed, session=session, cost_usd=spent, best_of=best_of
        )
        # A trace of its own for each run: a tool server keeps the world of an attempt by it.
        fresh = replace(attempt, session_id=session, trace_id=f"trace_{uuid.uuid4().hex}")
        attempt = await _run_once(fresh, world, runner, door, spent, watched)
        if door.lost is not None:
            raise door.lost
        if attempt.stop.fault is not Fault.INFRASTRUCTURE:
            break
    return attempt


async def _run_once(
    attempt: Attempt,
    spec: WorldSpec,
    runner: AgentRunner,
    door: Door,
    spent: Callable[[Sequence[Call]], float],
    watched: OnBoard,
) -> Attempt:
    started = time.perf_counter()
    state: Any = None
    tool_state: Mapping[str, Any] = {}
    end = AgentEnd(StopReason.ANSWERED)
    try:
        with watched.doing("world", f"{spec.name}.reset"):
            world = await spec.open(attempt.task, attempt.trace_id)
        watched.world(world, spec.name)
        try:
            with watched.doing("agent", runner.name):
                end = await runner.run(world, door, attempt.task.limits)
            with watched.doing("world", f"{spec.name}.export_state"):
                state = await world.export_state()
        finally:
            with watched.doing("world", f"{spec.name}.close"):
                await world.close()
        tool_state = world.tool_state
    except (WorldError, ToolServerError) as error:
        end = _blame(end, error)
    finally:
        await door.end_session()
    calls = door.calls
    return replace(
        attempt,
        trajectory=Trajectory(calls, end.stop, end.detail),
        messages=end.messages,
        hooks=end.hooks,
        state=state,
        tool_state=tool_state,
        usage=_usage(calls, time.perf_counter() - started),
        cost_usd=spent(calls),
    )


def _blame(end: AgentEnd, error: WorldError | ToolServerError) -> AgentEnd:
    """A world or tool server that failed ends the attempt, unless other machinery had failed before it."""
    if end.stop.fault is Fault.INFRASTRUCTURE:
        return end
    reason = StopReason.WORLD_ERROR if isinstance(error, WorldError) else StopReason.TOOL_ERROR
    return replace(end, stop=reason, detail=str(error))


def _approver(world: WorldSpec) -> dict[str, str]:
    """The simulator that answered for a person, in the record of the attempt."""
    return {"approver": world.approver.name} if world.approver else {}


def _spent(prices: Prices, calls: Sequence[Call]) -> float:
    """US dollars for these calls: tokens and tools by the table of prices, and what the tools themselves billed."""
    results = [result for call in calls for result in call.tool_results]
    return prices.cost(_usage(calls, 0.0), len(results)) + sum(result.cost_usd for result in results)


def _usage(calls: Sequence[Call], wall_seconds: float) -> Usage:
    return Usage(
        tokens_in=sum(len(call.prompt_ids) for call in calls),
        tokens_out=sum(len(call.completion_ids) + call.sampling.get(NOT_GIVEN_TOKENS, 0) for call in calls),
        model_seconds=sum(call.seconds for call in calls),
        tool_seconds=sum(result.seconds for call in calls for result in call.tool_results),
        wall_seconds=wall_seconds,
    )

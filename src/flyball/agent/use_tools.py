"""Tools as an attempt uses them: under its limits, approvals answered by the world's simulator, nothing unrecorded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from flyball.capture.door import Door
from flyball.errors import ToolServerError
from flyball.tasks.world import World
from flyball.tools.call import call_tool, cancelled
from flyball.types import Limits, StopReason, ToolCall, ToolResult


async def use_tool(world: World, call: ToolCall, limits: Limits, record: Callable[[ToolResult], None]) -> ToolResult:
    """Carry out one call and record its result; cut off by the end of the attempt, it is recorded as cancelled.

    Raises ToolServerError, after recording, when its server could not be used: that ends the attempt.
    """
    started = time.perf_counter()
    try:
        result = await call_tool(
            world.tools,
            call,
            timeout_seconds=limits.tool_timeout_seconds,
            output_chars=limits.tool_output_chars,
            approver=world.approver,
            allowance=world.allowance,
            on_failed_try=lambda why: world.failing.update({call.call_id: why}),
        )
    except asyncio.CancelledError:
        record(cancelled(call, time.perf_counter() - started))
        raise
    world.failing.pop(call.call_id, None)
    record(result)
    if result.problem == "unavailable":
        raise ToolServerError(result.content.removeprefix("error: "))
    return result


async def use_tools(
    world: World, calls: Sequence[ToolCall], limits: Limits, record: Callable[[list[ToolResult]], None]
) -> list[ToolResult]:
    """Carry out the calls of one turn, at the same time unless one of them writes. Results in the order of the calls.

    `record` gets them in that order, once, however this ends. What one call raises (there is nobody to approve it, its
    server is gone) cancels the others.
    """
    results: dict[int, ToolResult] = {}

    async def use(i: int) -> None:
        await use_tool(world, calls[i], limits, lambda result: results.update({i: result}))

    try:
        if len(calls) == 1 or any(call.name in world.tools and world.tools[call.name].writes for call in calls):
            for i in range(len(calls)):
                await use(i)
        else:
            await _together([use(i) for i in range(len(calls))])
    finally:
        ordered = [results[i] for i in sorted(results)]
        record(ordered)
    return ordered


def out_of_time(world: World, limits: Limits) -> tuple[StopReason, str]:
    """Why an attempt ends whose time is over: its own slowness, or a tool server that was still being tried again."""
    allowed = f"{limits.max_seconds:g} s are allowed"
    if world.failing:
        why = next(iter(world.failing.values())).removeprefix("error: ")
        return StopReason.TOOL_ERROR, f"{allowed} and ran out on a call that was tried again: {why}"
    return StopReason.MAX_SECONDS, allowed


def over_budget(call: ToolCall) -> ToolResult:
    """The result of a call that the plan's budget no longer pays for."""
    text = "error: the tool calls that the plan allows are used up; go on without tools"
    return ToolResult(call.call_id, call.name, text, "over_budget")


async def _together(running: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; when one raises or the caller is cancelled, the rest are cancelled and waited for."""
    tasks = [asyncio.ensure_future(each) for each in running]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Refusals:
    """Calls that were refused approval in one attempt. Asking again for one that is refused again ends the attempt."""

    def __init__(self) -> None:
        self._refused: set[tuple[str, str]] = set()

    def check(self, door: Door, answered: Iterable[tuple[ToolCall, ToolResult]]) -> None:
        """Take note of refusals. Raises Stopped when the policy insists."""
        for call, result in answered:
            if result.approval in (None, "approve"):
                continue
            key = (call.name, json.dumps(json.loads(call.arguments or "{}"), sort_keys=True))
            if key in self._refused:
                raise door.stop(
                    StopReason.APPROVAL_DENIED, f"{call.name} was refused before and asked for again, with {key[1]}"
                )
            self._refused.add(key)

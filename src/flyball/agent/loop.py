"""The built-in agent: ask the policy, run the tools it calls, show it the results, until it answers.

A policy cannot break the loop: a call it garbles is shown back to it as an observation, a tool that fails is a result
with a problem, and past a limit the attempt ends with the reason. Tool calls of one turn run at the same time (sync
tools of one world take turns, see `tasks/world.py`) unless one of them writes; then they run in the order the policy
wrote them, so that the same turn leaves the same world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

from flyball.agent.runner import AgentEnd, opening
from flyball.capture.door import Door, Reply, Stopped
from flyball.errors import WorldError
from flyball.tasks.world import World
from flyball.tools.call import call_tool
from flyball.types import Limits, Message, StopReason, ToolCall, ToolResult

Approver = Callable[[ToolCall], Literal["approve", "deny"]]


def approve_all(call: ToolCall) -> Literal["approve", "deny"]:
    """The default simulator of a person who approves: yes to everything. Never the live inbox (invariant 5)."""
    return "approve"


class ToolLoop:
    """The default AgentRunner.

    `approver` answers for tools that need a person's approval. An attempt ends as LOOP after `max_repeats` identical
    turns in a row and as MALFORMED after `max_malformed` unreadable ones in a row.
    """

    def __init__(self, *, approver: Approver = approve_all, max_repeats: int = 3, max_malformed: int = 3) -> None:
        self._approver = approver
        self._max_repeats = max_repeats
        self._max_malformed = max_malformed

    @property
    def name(self) -> str:
        approver = getattr(self._approver, "__qualname__", type(self._approver).__qualname__)
        return f"tool_loop(approver={approver}, max_repeats={self._max_repeats}, max_malformed={self._max_malformed})"

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt; see AgentRunner.run."""
        messages = opening(world)
        try:
            async with asyncio.timeout(limits.max_seconds) as deadline:
                await self._converse(world, door, limits, messages)
        except Stopped as stopped:
            return AgentEnd(stopped.reason, stopped.detail, tuple(messages))
        except WorldError as error:
            return AgentEnd(StopReason.WORLD_ERROR, str(error), tuple(messages))
        except TimeoutError:
            if not deadline.expired():
                raise
            return AgentEnd(StopReason.MAX_SECONDS, f"{limits.max_seconds:g} s are allowed", tuple(messages))
        return AgentEnd(StopReason.ANSWERED, "", tuple(messages))

    async def _converse(self, world: World, door: Door, limits: Limits, messages: list[Message]) -> None:
        """Append to `messages` until the conversation is over. Raises Stopped when something else ends it."""
        watch = _Watch(self._max_repeats, self._max_malformed)
        while True:
            reply = await door.complete(messages, world.schemas)
            messages.append(reply.message)
            watch.check(reply)
            if reply.parsed.malformed is not None:
                shown = await self._show_malformed(door, reply, reply.parsed.malformed)
            elif reply.parsed.tool_calls:
                shown = await self._use_tools(world, door, limits, reply)
            elif world.has_user and (said := await world.user_reply(reply.parsed.content)) is not None:
                shown = [{"role": "user", "content": said}]
            else:
                return
            messages += shown

    async def _show_malformed(self, door: Door, reply: Reply, explanation: str) -> list[Message]:
        """A call that cannot be read counts as a failed tool call, and the policy is told what is wrong with it."""
        door.count_tool_calls(1)
        result = ToolResult(f"{reply.call_id}_0", "", f"error: {explanation}", "malformed")
        door.record_results(reply.call_id, [result])
        return [_tool_message(result)]

    async def _use_tools(self, world: World, door: Door, limits: Limits, reply: Reply) -> list[Message]:
        calls = reply.parsed.tool_calls
        door.count_tool_calls(len(calls))
        results = await run_tools(world, calls, limits, self._approver)
        door.record_results(reply.call_id, results)
        return [_tool_message(result) for result in results]


async def run_tools(
    world: World, calls: Sequence[ToolCall], limits: Limits, approver: Approver
) -> Sequence[ToolResult]:
    """Run the calls of one turn, at the same time unless one of them writes. Results come in the order of the calls."""

    async def run(call: ToolCall) -> ToolResult:
        return await call_tool(
            world.tools,
            call,
            timeout_seconds=limits.tool_timeout_seconds,
            output_chars=limits.tool_output_chars,
            approve=approver,
        )

    if len(calls) == 1 or any(call.name in world.tools and world.tools[call.name].writes for call in calls):
        return [await run(call) for call in calls]
    return await asyncio.gather(*[run(call) for call in calls])


class _Watch:
    """Notices a policy that is stuck: cut off, unreadable several times in a row, or repeating itself."""

    def __init__(self, max_repeats: int, max_malformed: int) -> None:
        self._max_repeats = max_repeats
        self._max_malformed = max_malformed
        self._last: Any = None
        self._repeats = 0
        self._malformed = 0

    def check(self, reply: Reply) -> None:
        if reply.finish_reason == "length":
            raise Stopped(
                StopReason.MAX_TOKENS, f"a turn was cut after {reply.num_completion_tokens} tokens without an end"
            )
        self._malformed = self._malformed + 1 if reply.parsed.malformed is not None else 0
        if self._malformed >= self._max_malformed:
            raise Stopped(
                StopReason.MALFORMED, f"{self._malformed} unreadable calls in a row, last: {reply.parsed.malformed}"
            )
        turn = (reply.parsed.content, [(call.name, call.arguments) for call in reply.parsed.tool_calls])
        self._repeats = self._repeats + 1 if turn == self._last else 1
        self._last = turn
        if self._repeats >= self._max_repeats:
            raise Stopped(StopReason.LOOP, f"the same turn {self._repeats} times in a row")


def _tool_message(result: ToolResult) -> Message:
    return {"role": "tool", "tool_call_id": result.call_id, "name": result.name, "content": result.content}

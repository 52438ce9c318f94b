"""What an agent that is not ours gets to hold: the task's public side and the world's tools, attributed and limited.

A foreign agent reaches the policy through the attempt's door and nothing else. Its answer is a text; whatever stopped
the attempt first (a limit, the engine) decides the stop reason, however the agent took the refusal.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from flyball.agent.runner import AgentEnd, opening
from flyball.agent.use_tools import Refusals, out_of_time, use_tool
from flyball.capture.door import Door, Stopped
from flyball.errors import AgentError, ToolServerError, WorldError
from flyball.tasks.world import World
from flyball.types import Limits, Message, StopReason, ToolResult

GRACE_SECONDS = 2.0
"""How long an agent may take to notice that its attempt is over."""

ToolFunction = Callable[..., Awaitable[str]]


class AttemptHandle:
    """One attempt as a foreign agent sees it.

    `task`: the public fields; `system`, `observation`: what the built-in loop would open with; `schemas`: the tools in
    OpenAI's form; `tools["name"](**arguments)`: use one and get the text the policy should be shown; `base_url`: the
    OpenAI-compatible address of this attempt's policy.
    """

    def __init__(self, world: World, door: Door, limits: Limits, base_url: str) -> None:
        self.task_id = world.task.task_id
        self.task: Mapping[str, Any] = world.task.public
        self.system = world.system
        self.observation = world.observation
        self.schemas = world.schemas
        self.base_url = base_url
        self.tools: Mapping[str, ToolFunction] = {name: self._function(name) for name in world.tools}
        self._world = world
        self._door = door
        self._limits = limits
        self._refusals = Refusals()

    async def call_tool(self, name: str, arguments: str | Mapping[str, Any], tool_call_id: str | None = None) -> str:
        """Use a tool the way the policy asked for it: `arguments` as it wrote them. Returns what to show it."""
        raw = arguments if isinstance(arguments, str) else json.dumps(dict(arguments))
        return (await self.use_tool(name, raw, tool_call_id)).content

    async def use_tool(self, name: str, arguments: str, tool_call_id: str | None = None) -> ToolResult:
        """As `call_tool`, with the whole result. Raises Stopped past a limit, and when the attempt ends meanwhile."""
        self._door.count_tool_calls(1)
        owner, call = self._door.claim_tool_call(name, arguments, tool_call_id)
        try:
            result = await use_tool(
                self._world, call, self._limits, lambda result: self._door.record_foreign_result(owner, result)
            )
        except WorldError as error:
            raise self._door.stop(StopReason.WORLD_ERROR, str(error)) from error
        except ToolServerError as error:
            raise self._door.stop(StopReason.TOOL_ERROR, str(error)) from error
        self._refusals.check(self._door, [(call, result)])
        return result

    async def user_reply(self, text: str) -> str | None:
        """Say something to the user and hear the answer; None when there is no user or nothing more to say."""
        if not self._world.has_user:
            return None
        try:
            return await self._world.user_reply(text)
        except WorldError as error:
            raise self._door.stop(StopReason.WORLD_ERROR, str(error)) from error

    def public(self) -> dict[str, Any]:
        """What is sent to an agent in another process."""
        return {
            "task_id": self.task_id,
            "task": dict(self.task),
            "system": self.system,
            "observation": self.observation,
            "tools": self.schemas,
            "base_url": self.base_url,
            "tools_url": f"{self.base_url.removesuffix('/v1')}/tools",
        }

    def _function(self, name: str) -> ToolFunction:
        async def use(**arguments: Any) -> str:
            return await self.call_tool(name, arguments)

        use.__name__ = name
        return use


async def drive(answer: Coroutine[Any, Any, str], world: World, door: Door, limits: Limits) -> AgentEnd:
    """Wait for a foreign agent's answer, at most `limits.max_seconds`, and say how the attempt ended."""
    stop, detail, text = StopReason.ANSWERED, "", None
    try:
        async with asyncio.timeout(limits.max_seconds):
            text = await _until_over(answer, door)
    except Stopped as stopped:
        stop, detail = stopped.reason, stopped.detail
    except AgentError as error:
        stop, detail = StopReason.AGENT_ERROR, str(error)
    except TimeoutError:
        stop, detail = out_of_time(world, limits)
    ended = door.stop(stop, detail)  # the first reason stands, and nothing that is left of the agent gets in
    return AgentEnd(ended.reason, ended.detail, _conversation(world, door, text))


async def _until_over(answer: Coroutine[Any, Any, str], door: Door) -> str:
    """The agent's answer, or Stopped soon after the door was closed on an agent that goes on regardless."""
    agent = asyncio.ensure_future(answer)
    over = asyncio.ensure_future(door.wait_until_ended())
    try:
        await asyncio.wait({agent, over}, return_when=asyncio.FIRST_COMPLETED)
        if not agent.done():
            await asyncio.wait({agent}, timeout=GRACE_SECONDS)
        return agent.result() if agent.done() else _refuse(over.result())
    finally:
        agent.cancel()
        over.cancel()
        await asyncio.wait({agent, over}, timeout=GRACE_SECONDS)


def _refuse(ended: Stopped) -> str:
    raise Stopped(ended.reason, ended.detail)


def _conversation(world: World, door: Door, answer: str | None) -> tuple[Message, ...]:
    """The main agent's conversation as of its last call, ended by its answer if it was worded anew."""
    messages = door.transcript or tuple(opening(world))
    if answer is None:
        return messages
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls") and last["content"].strip() == answer.strip():
        return messages
    return (*messages, {"role": "assistant", "content": answer})

"""The built-in loop: ask the policy, run the tools it calls, show it the results, until it answers.

A policy cannot break the loop: a call it garbles is shown back to it as an observation, a tool that fails is a result
with a problem, and past a limit the attempt ends with the reason. Tool calls of one turn run at the same time (sync
tools of one world take turns, see `tasks/world.py`) unless one of them writes; then they run in the order the policy
wrote them, so that the same turn leaves the same world.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from flyball.agent.hooks import Block, Hook, Hooks, Revise, View, asking, check, criticise, name_of, plan
from flyball.agent.runner import AgentEnd, opening
from flyball.agent.use_tools import Refusals, out_of_time, over_budget, use_tools
from flyball.capture.door import Door, Reply, Stopped
from flyball.errors import AgentError, ToolServerError, WorldError
from flyball.tasks.world import World
from flyball.types import HookRecord, Limits, Message, StopReason, ToolResult

NO_HOOKS = Hooks()


class ToolLoop:
    """The default AgentRunner.

    An attempt ends as LOOP after `max_repeats` identical turns in a row, as MALFORMED after `max_malformed` unreadable
    ones in a row, and as BLOCKED when an answer was to be revised more than `max_revisions` times.
    """

    def __init__(
        self, hooks: Hooks = NO_HOOKS, *, max_repeats: int = 3, max_malformed: int = 3, max_revisions: int = 2
    ) -> None:
        self._hooks = hooks
        self._max_repeats = max_repeats
        self._max_malformed = max_malformed
        self._max_revisions = max_revisions

    @property
    def name(self) -> str:
        settings = f"max_repeats={self._max_repeats}, max_malformed={self._max_malformed}"
        if version := self._hooks.version:
            settings += f", max_revisions={self._max_revisions}, {version}"
        return f"tool_loop({settings})"

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt; see AgentRunner.run."""
        watch = _Watch(self._max_repeats, self._max_malformed)
        conversation = _Conversation(world, door, limits, watch, self._hooks, self._max_revisions)
        stop, detail = StopReason.ANSWERED, ""
        try:
            async with asyncio.timeout(limits.max_seconds) as deadline:
                await conversation.hold()
        except Stopped as stopped:
            stop, detail = stopped.reason, stopped.detail
        except WorldError as error:
            stop, detail = StopReason.WORLD_ERROR, str(error)
        except ToolServerError as error:
            stop, detail = StopReason.TOOL_ERROR, str(error)
        except AgentError as error:
            stop, detail = StopReason.AGENT_ERROR, str(error)
        except TimeoutError:
            if not deadline.expired():
                raise
            stop, detail = out_of_time(world, limits)
        return AgentEnd(stop, detail, conversation.seen_by_user(), tuple(conversation.records))


class _Conversation:
    """One attempt of the loop. `messages` is what the policy was told and said so far, `records` what hooks said."""

    def __init__(
        self, world: World, door: Door, limits: Limits, watch: _Watch, hooks: Hooks, max_revisions: int
    ) -> None:
        self._world, self._door, self._limits, self._watch = world, door, limits, watch
        self._hooks, self._max_revisions = hooks, max_revisions
        self._refusals = Refusals()
        self._budget: int | None = None
        self._revisions = 0
        self._withheld: set[int] = set()
        self.messages = opening(world)
        self.records: list[HookRecord] = []

    def seen_by_user(self) -> tuple[Message, ...]:
        """The conversation without what the policy checks held back, or had no time to let pass."""
        return tuple(message for i, message in enumerate(self.messages) if i not in self._withheld)

    async def hold(self) -> None:
        """Return when the conversation is over. Raises Stopped when something else ends it."""
        if self._hooks.planner is not None:
            await self._plan(self._hooks.planner)
        while True:
            reply = await self._door.complete(self.messages, self._world.schemas)
            self.messages.append(reply.message)
            if self._hooks.policy_checks and reply.parsed.malformed is None and not reply.parsed.tool_calls:
                self._withheld.add(len(self.messages) - 1)  # until every check has let it pass
            if self._hooks.critic is not None:
                await self._criticise(self._hooks.critic, reply.call_id)
            self._watch.check(reply)
            if reply.parsed.malformed is not None:
                self._show_malformed(reply, reply.parsed.malformed)
            elif reply.parsed.tool_calls:
                await self._use_tools(reply)
            elif await self._may_be_said(reply.call_id):
                said = await self._world.user_reply(reply.parsed.content)
                if said is None:
                    return
                self.messages.append({"role": "user", "content": said})

    def _show_malformed(self, reply: Reply, explanation: str) -> None:
        """A call that cannot be read counts as a failed tool call, and the policy is told what is wrong with it."""
        self._door.count_tool_calls(1)
        result = ToolResult(f"{reply.call_id}_0", "", f"error: {explanation}", "malformed")
        self._door.record_results(reply.call_id, [result])
        self.messages.append(_tool_message(result))

    async def _use_tools(self, reply: Reply) -> None:
        calls = reply.parsed.tool_calls
        self._door.count_tool_calls(len(calls))
        num_allowed = len(calls) if self._budget is None else min(len(calls), self._budget)
        refused = [over_budget(call) for call in calls[num_allowed:]]

        def record(results: list[ToolResult]) -> None:
            self._door.record_results(reply.call_id, [*results, *refused])

        results = await use_tools(self._world, calls[:num_allowed], self._limits, record)
        if self._budget is not None:
            self._budget -= num_allowed
        self.messages += map(_tool_message, [*results, *refused])
        self._refusals.check(self._door, zip(calls, results, strict=False))

    async def _plan(self, hook: Hook) -> None:
        made = await plan(hook, replace(self._view(), ask=asking(self._door)), self._limits.max_seconds)
        if made is None:
            return
        value = {"steps": list(made.steps), "max_tool_calls": made.max_tool_calls}
        self.records.append(HookRecord("plan", name_of(hook), None, value))
        self._budget = made.max_tool_calls
        system = f"{self._world.system}\n\n{made.text()}" if self._world.system else made.text()
        self.messages = [{"role": "system", "content": system}, self.messages[-1]]

    async def _criticise(self, hook: Hook, call_id: str) -> None:
        score = await criticise(hook, self._view(), self._limits.tool_timeout_seconds)
        self.records.append(HookRecord("critic", name_of(hook), call_id, score))

    async def _may_be_said(self, call_id: str) -> bool:
        """Put the last turn before the policy checks; the first that objects decides. Raises Stopped for a block."""
        for hook in self._hooks.policy_checks:
            said = await check(hook, self._view(), self._limits.tool_timeout_seconds)
            if said is None:
                self.records.append(HookRecord("policy_check", name_of(hook), call_id, "pass"))
            elif isinstance(said, Block):
                self.records.append(HookRecord("policy_check", name_of(hook), call_id, "block", said.reason))
                raise self._door.stop(StopReason.BLOCKED, f"{name_of(hook)}: {said.reason}")
            else:
                self.records.append(HookRecord("policy_check", name_of(hook), call_id, "revise", said.instruction))
                self._revise(name_of(hook), said)
                return False
        self._revisions = 0
        self._withheld.discard(len(self.messages) - 1)
        return True

    def _revise(self, name: str, asked: Revise) -> None:
        self._revisions += 1
        if self._revisions > self._max_revisions:
            detail = f"{name}: still to be revised after {self._max_revisions} revisions"
            raise self._door.stop(StopReason.BLOCKED, detail)
        self._withheld.add(len(self.messages))
        self.messages.append({"role": "user", "content": f"[{name}] {asked.instruction}"})

    def _view(self) -> View:
        task = self._world.task
        return View(task.task_id, task.public, self._world.schemas, tuple(self.messages))


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

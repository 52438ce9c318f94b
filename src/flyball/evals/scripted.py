"""Agents that follow a script: the oracle that shows a task can be solved, the one that does nothing.

A script is a function of the task that gives the assistant's turns. They go through the same door, loop, tools, limits
and graders as a policy's, without an engine; only no token is sampled. A generator sees what came back:

    def oracle(task):
        (found,) = yield use("find_order", order_id=task.public["order"])     # the messages since its last turn
        yield say(f"It is {json.loads(found['content'])['status']}.")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from flyball.agent.hooks import Hooks
from flyball.agent.loop import NO_HOOKS, ToolLoop
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.errors import AgentError
from flyball.evals.run import Arm
from flyball.graders.grade import GraderSet
from flyball.models.fake import FakeChat
from flyball.tasks.world import World, WorldSpec
from flyball.types import Limits, Message, StopReason, Task

Turns = Iterable[Message] | Generator[Message, list[Message], None]
Script = Callable[[Task], Turns]


def say(text: str) -> Message:
    """An assistant turn that speaks to the user; the attempt ends with it unless the user answers."""
    return {"role": "assistant", "content": text}


def use(tool: str, /, **arguments: Any) -> Message:
    """An assistant turn that calls one tool; its arguments may have any name."""
    call = {"type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def do_nothing(task: Task) -> list[Message]:
    """The script of an agent that says nothing and calls nothing: what it earns, a grader gives away."""
    return [say("")]


def scripted_arm(script: Script, world: WorldSpec, graders: GraderSet, hooks: Hooks = NO_HOOKS) -> Arm:
    """An arm that follows a script, for `attempt_all`. It has an engine only in name: no script reaches it."""
    runner = ScriptedAgent(script, hooks)
    return Arm(world, runner, FakeEngine([""]), FakeChat(), SamplingParams(temperature=0.0), graders)


class ScriptedAgent:
    """An AgentRunner whose turns come from `turns_fn(task)`. A script that runs out ends the attempt as answered.

    What a script raises is its own failure, an AgentError: the agent's program, not the policy.
    """

    def __init__(self, turns_fn: Script, hooks: Hooks = NO_HOOKS) -> None:
        self._turns_fn = turns_fn
        self._loop = ToolLoop(hooks)

    @property
    def name(self) -> str:
        return f"scripted({getattr(self._turns_fn, '__qualname__', type(self._turns_fn).__qualname__)})"

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt; see AgentRunner.run."""
        try:
            door.follow(_Reader(self._turns_fn, world.task, door).next_turn)
        except AgentError as error:
            return AgentEnd(StopReason.AGENT_ERROR, str(error), door.transcript)
        return await self._loop.run(world, door, limits)


class _Reader:
    """Reads a script turn by turn, showing a generator what was said since its last turn."""

    def __init__(self, turns_fn: Script, task: Task, door: Door) -> None:
        self._task, self._door = task, door
        self._num_seen = 0
        self._started = False
        self._turns: Any = self._from_user_code(lambda: iter(turns_fn(task)))

    def next_turn(self, messages: Sequence[Message]) -> Message:
        """The next assistant turn. Raises Stopped when there is none."""
        since, self._num_seen = list(messages[self._num_seen :]), len(messages) + 1
        turn = self._from_user_code(lambda: self._advance(since))
        if turn is None:
            raise self._door.stop(StopReason.ANSWERED, "the script is over")
        if not isinstance(turn, dict) or turn.get("role") != "assistant":
            raise AgentError(
                f"the script of task {self._task.task_id!r} gave {turn!r:.80}; give assistant messages: say() or use()"
            )
        return turn

    def _advance(self, since: list[Message]) -> Message | None:
        sendable = isinstance(self._turns, Generator) and self._started  # a generator is started by `next`
        self._started = True
        try:
            turn: Message = self._turns.send(since) if sendable else next(self._turns)
        except StopIteration:
            return None
        return turn

    def _from_user_code(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # the boundary to the user's script: named, never swallowed
            raise AgentError(
                f"the script of task {self._task.task_id!r} raised {type(error).__name__}: {error}"
            ) from error

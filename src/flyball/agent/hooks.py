"""Hooks of the built-in loop: a planner before the first turn, a critic on every turn, checks on what the user is told.

Plain functions of a `View`, sync or async. What a hook says is recorded in the attempt. What it raises, or fails to
return in time, is the agent's failure and not the policy's: a critic and a check have `tool_timeout_seconds`, a
planner, who may ask the policy, has the attempt's `max_seconds`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flyball.capture.door import Door, Stopped
from flyball.errors import AgentError, ConfigError
from flyball.tools.source import source_digest
from flyball.tools.user_code import explain, run_user_code
from flyball.types import Message

Ask = Callable[[str], Awaitable[str]]


@dataclass(frozen=True)
class View:
    """What a hook sees: the task's public fields, the tools in OpenAI's form, the conversation so far.

    A planner may also `await view.ask(text)`: the policy answers in a conversation of its own, recorded and trained as
    a branch of the attempt under the agent name `planner`.
    """

    task_id: str
    task: Mapping[str, Any]
    tools: Sequence[dict[str, Any]]
    messages: tuple[Message, ...]
    ask: Ask | None = None

    @property
    def answer(self) -> str:
        """What the policy said in the last message, '' where the last message is not the policy's."""
        last = self.messages[-1]
        return (last.get("content") or "") if last["role"] == "assistant" else ""


@dataclass(frozen=True)
class Plan:
    """Sub-steps shown to the policy before its first turn, and how many tool calls it may spend on them.

    A call past `max_tool_calls` is refused and shown so; the task's own limit stands beside it. None = no budget.
    """

    steps: tuple[str, ...]
    max_tool_calls: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, str) or not all(isinstance(step, str) and step.strip() for step in self.steps):
            raise ConfigError(f"a plan's steps are {self.steps!r}; give a list of texts, one for each sub-step")
        if not self.steps:
            raise ConfigError("a plan has no steps; give at least one, or return None for no plan")
        if self.max_tool_calls is not None and self.max_tool_calls < 1:
            raise ConfigError(f"a plan's max_tool_calls is {self.max_tool_calls}; it is 1 or more, or None")
        object.__setattr__(self, "steps", tuple(self.steps))

    def text(self) -> str:
        """The plan as the policy reads it."""
        steps = [f"{i}. {step}" for i, step in enumerate(self.steps, 1)]
        budget = [] if self.max_tool_calls is None else [f"Use at most {self.max_tool_calls} tool calls."]
        return "\n".join(["Plan:", *steps, *budget])


@dataclass(frozen=True)
class Block:
    """A policy check's answer: this must not be said. The attempt ends as `blocked` and the user is told nothing."""

    reason: str


@dataclass(frozen=True)
class Revise:
    """A policy check's answer: say it differently. The policy reads `instruction`; the user does not see the draft."""

    instruction: str


Hook = Callable[[View], Any]


@dataclass(frozen=True)
class Hooks:
    """`planner(view) -> Plan | None`, `critic(view) -> float`, each policy check `(view) -> None | Block | Revise`.

    Checks run in order on every turn that speaks to the user; the first that objects decides. Raises ConfigError for
    what is not a function.
    """

    planner: Hook | None = None
    critic: Hook | None = None
    policy_checks: tuple[Hook, ...] = field(default=())

    def __post_init__(self) -> None:
        for kind, hook in self.named:
            if not callable(hook):
                raise ConfigError(f"{kind} is {hook!r}; it is a function `def {kind}(view): ...`")

    @property
    def named(self) -> list[tuple[str, Hook]]:
        """Every hook that is declared, by its kind."""
        single = [("planner", self.planner), ("critic", self.critic)]
        checks = [("policy_check", check) for check in self.policy_checks]
        return [*((kind, hook) for kind, hook in single if hook is not None), *checks]

    @property
    def version(self) -> str:
        """Names and digests of the source of all hooks; '' without any."""
        return ", ".join(f"{kind}={name_of(hook)}@{source_digest(hook)[:12]}" for kind, hook in self.named)


def name_of(hook: Hook) -> str:
    """The name a hook is recorded under."""
    return getattr(hook, "__qualname__", type(hook).__qualname__)


async def plan(hook: Hook, view: View, timeout_seconds: float) -> Plan | None:
    """Ask the planner. Raises AgentError for what is no plan."""
    said = await _call(hook, view, timeout_seconds)
    if said is not None and not isinstance(said, Plan):
        raise AgentError(f"planner {name_of(hook)} returned {said!r:.80}; return fb.Plan(steps), or None for no plan")
    return said


async def criticise(hook: Hook, view: View, timeout_seconds: float) -> float:
    """Ask the critic. Raises AgentError for what is no finite number."""
    said = await _call(hook, view, timeout_seconds)
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not math.isfinite(said):
        raise AgentError(f"critic {name_of(hook)} returned {said!r:.80}; return a finite number")
    return float(said)


async def check(hook: Hook, view: View, timeout_seconds: float) -> Block | Revise | None:
    """Ask one policy check. Raises AgentError for what is no verdict."""
    said = await _call(hook, view, timeout_seconds)
    if said is not None and not isinstance(said, (Block, Revise)):
        raise AgentError(
            f"policy check {name_of(hook)} returned {said!r:.80}; return None to let it pass, fb.Block(reason) or "
            "fb.Revise(instruction)"
        )
    return said


def asking(door: Door) -> Ask:
    """Return the planner's way to the policy. Asking while the turns come from a script raises AgentError."""

    async def ask(text: str) -> str:
        if door.scripted:
            raise AgentError("the turns of this attempt come from a script: there is no policy for a planner to ask")
        reply = await door.complete([{"role": "user", "content": text}], [], agent="planner")
        return reply.parsed.content

    return ask


async def _call(hook: Hook, view: View, timeout_seconds: float) -> Any:
    finished = await run_user_code(hook, {}, timeout_seconds, view)
    if finished.timed_out:
        raise AgentError(f"{name_of(hook)} did not return within {timeout_seconds:g} s")
    if isinstance(finished.error, (AgentError, Stopped)):
        raise finished.error
    if finished.error is not None:
        raise AgentError(f"{name_of(hook)} raised {explain(finished.error)}") from finished.error
    return finished.value

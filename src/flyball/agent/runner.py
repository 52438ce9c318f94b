"""What drives a policy through one attempt, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flyball.capture.door import Door
from flyball.tasks.world import World
from flyball.types import HookRecord, Limits, Message, StopReason


@dataclass(frozen=True)
class AgentEnd:
    """How the agent ended, in one reason and some words, the conversation as the user saw it, and what hooks said."""

    stop: StopReason
    detail: str = ""
    messages: tuple[Message, ...] = ()
    hooks: tuple[HookRecord, ...] = ()


class AgentRunner(Protocol):
    """The built-in loop, a callable, a command or an HTTP agent. One runner serves many attempts at a time."""

    @property
    def name(self) -> str:
        """What it is and how it is set, for the record of an attempt's versions."""
        ...

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt to its end. Every way to end is a StopReason; only cancellation and settings raise."""
        ...


def opening(world: World) -> list[Message]:
    """The messages an attempt starts with: the world's system text, if it has one, and what is asked."""
    system: list[Message] = [{"role": "system", "content": world.system}] if world.system else []
    return [*system, {"role": "user", "content": world.observation}]

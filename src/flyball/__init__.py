"""Flyball: train the policy of a tool-using agent from graded attempts, and release it only on evidence.

    import flyball as fb

The names below are what a workflow file needs. Each is loaded when it is first used, so `import flyball` costs nothing
and never asks for torch. Everything else is imported from its own room: `from flyball.stats.binomial import wilson`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.agent.command import Command
    from flyball.agent.hooks import Block, Plan, Revise, View
    from flyball.agent.http import Http
    from flyball.errors import Fault
    from flyball.graders.judge import Judge
    from flyball.graders.make import grader_from
    from flyball.tools.tool import tool
    from flyball.types import Attempt, Limits, Missing, Outcome, RewardEvent, Score, StopReason, Task
    from flyball.workflow.workflow import Workflow

__all__ = [
    "Attempt",
    "Block",
    "Command",
    "Fault",
    "Http",
    "Judge",
    "Limits",
    "Missing",
    "Outcome",
    "Plan",
    "Revise",
    "RewardEvent",
    "Score",
    "StopReason",
    "Task",
    "View",
    "Workflow",
    "grader_from",
    "tool",
]

_TYPES = ("Attempt", "Limits", "Missing", "Outcome", "RewardEvent", "Score", "StopReason", "Task")
_HOMES = {
    **dict.fromkeys(_TYPES, "flyball.types"),
    "Command": "flyball.agent.command",
    **dict.fromkeys(("Block", "Plan", "Revise", "View"), "flyball.agent.hooks"),
    "Fault": "flyball.errors",
    "Http": "flyball.agent.http",
    "Judge": "flyball.graders.judge",
    "Workflow": "flyball.workflow.workflow",
    "grader_from": "flyball.graders.make",
    "tool": "flyball.tools.tool",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("flyball")
    if name not in _HOMES:
        raise AttributeError(f"module 'flyball' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})

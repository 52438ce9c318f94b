"""Who approves calls of high impact: a declared simulator in training and evaluation, a person where it is meant.

What was answered is recorded with the call (`ToolResult.approval`); who it is, with the attempt (`Attempt.versions`).
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Protocol

from flyball.errors import ConfigError, WorldError, nearest
from flyball.tools.source import source_digest
from flyball.tools.user_code import explain, run_user_code
from flyball.types import ApprovalDecision, ToolCall

DECISIONS: tuple[str, ...] = typing.get_args(ApprovalDecision)
ApproverFunction = Callable[[ToolCall], Any]


class Approver:
    """Answers for every tool with `approval="human"`.

    `declared`: one of the words `approve`, `deny` (a person said no) and `expire` (nobody answered in time) for every
    call, or a function `(call) -> word`, sync or async. `version` changes with what it answers. Raises ConfigError for
    anything else.
    """

    def __init__(self, declared: str | ApproverFunction) -> None:
        if isinstance(declared, str):
            if declared not in DECISIONS:
                raise ConfigError(f"approver is {declared!r}{nearest(declared, DECISIONS)}")
            word = declared
            self._fn: ApproverFunction = lambda call: word
            self.name = self.version = word
        elif callable(declared):
            self._fn = declared
            self.name = getattr(declared, "__qualname__", type(declared).__qualname__)
            self.version = source_digest(declared)
        else:
            raise ConfigError(
                f"approver is {declared!r}; it is one of {', '.join(DECISIONS)}, or a function "
                "`def approver(call): ...` that returns one of them"
            )

    def for_attempt(self, trace_id: str) -> Approver:
        """The same one answers in every attempt."""
        return self

    async def decide(self, call: ToolCall, timeout_seconds: float) -> ApprovalDecision:
        """Return the simulated person's answer. Raises WorldError for what is no answer: it is part of the world."""
        finished = await run_user_code(self._fn, {}, timeout_seconds, call)
        if finished.timed_out:
            raise WorldError(
                f"approver {self.name} did not return within {timeout_seconds:g} s; it may return 'expire'"
            )
        if finished.error is not None:
            raise WorldError(f"approver {self.name} raised {explain(finished.error)}") from finished.error
        if finished.value not in DECISIONS:
            raise WorldError(f"approver {self.name} returned {finished.value!r}; return one of {', '.join(DECISIONS)}")
        decision: ApprovalDecision = finished.value
        return decision


class Asked(Protocol):
    """Whoever answers for the person: the declared simulator, or the inbox that a person looks into."""

    @property
    def name(self) -> str: ...

    def for_attempt(self, trace_id: str) -> Asked:
        """Whoever answers in one attempt or session."""
        ...

    async def decide(self, call: ToolCall, timeout_seconds: float) -> ApprovalDecision: ...


def approver_of(declared: str | ApproverFunction | None) -> Approver | None:
    """Return the simulator that was declared, None when none was."""
    return None if declared is None else Approver(declared)

"""Attempts made from conversations, for grading without a model."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from clerk import Clerk, Row
from grading import NO_CHANGE
from oracle import Conversation, converse

from flyball.types import Attempt, Call, Message, StopReason, Task, ToolCall, ToolResult, Trajectory


def task_of(row: Row) -> Task:
    public = {"ticket": row["ticket"], "snapshot": row["snapshot"]}
    return Task(row["id"], public, row["hidden"], split=row["split"], surface=row["surface"])


def solved(row: Row) -> Conversation:
    return converse(row, Clerk(row, random.Random(0)))


def attempt_of(row: Row, messages: list[Message], state: Mapping[str, Any] = NO_CHANGE) -> Attempt:
    """An attempt with these messages; a tool call without a result message counts as failed."""
    answered = {m["tool_call_id"] for m in messages if m["role"] == "tool"}
    calls = []
    for i, message in enumerate(messages):
        made = [
            ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", ())
        ]
        results = [ToolResult(c.call_id, c.name, "", None if c.call_id in answered else "raised") for c in made]
        if made:
            calls.append(Call(f"c{i}", None, "main", (), (), (), (), {}, "stop", message, tuple(made), tuple(results)))
    trajectory = Trajectory(tuple(calls), StopReason.ANSWERED)
    return Attempt(row["id"], task_of(row), trajectory, tuple(messages), state)


def said(row: Row, text: str, **state: Any) -> Attempt:
    """An attempt without tool calls that left this state and said this text."""
    return attempt_of(row, [{"role": "assistant", "content": text}], {**NO_CHANGE, **state})

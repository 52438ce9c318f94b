"""What tests of graders share: attempts made by hand, and a judge that is a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from flyball.graders.grader import Grader
from flyball.graders.judge import Judge
from flyball.graders.make import grader_from
from flyball.graders.row import attempt_of_text
from flyball.types import Attempt, Call, Score, StopReason, Task, ToolCall, ToolResult, Trajectory


def score(
    spec: Mapping[str, Any] | Grader, text: str = "", item: Mapping[str, Any] | None = None, **made: Any
) -> Score:
    """Grade a text, as `graders/run` does."""
    return score_of(spec, attempt_of_text(text, {}), item or {}, **made)


def score_of(
    spec: Mapping[str, Any] | Grader, attempt: Attempt, hidden: Mapping[str, Any] | None = None, **made: Any
) -> Score:
    grader = grader_from({"name": "g", **spec}, **made) if isinstance(spec, Mapping) else spec
    return asyncio.run(grader.grade(attempt, hidden or {}))


def tool_call(call_id: str, name: str, **arguments: Any) -> ToolCall:
    return ToolCall(call_id, name, json.dumps(arguments))


def attempt(
    *turns: tuple[str, list[tuple[ToolCall, ToolResult | str]]] | str,
    stop: StopReason = StopReason.ANSWERED,
    state: Any = None,
    public: Mapping[str, Any] | None = None,
    finish: str = "stop",
) -> Attempt:
    """An attempt of assistant turns: text alone, or text with calls and what they gave; "user: ..." is the user."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "please"}]
    calls: list[Call] = []
    for i, turn in enumerate(turns):
        if isinstance(turn, str) and turn.startswith("user: "):
            messages.append({"role": "user", "content": turn.removeprefix("user: ")})
            continue
        text, made = (turn, []) if isinstance(turn, str) else turn
        message: dict[str, Any] = {"role": "assistant", "content": text}
        results = tuple(r if isinstance(r, ToolResult) else ToolResult(c.call_id, c.name, r) for c, r in made)
        if made:
            message["tool_calls"] = [
                {"id": c.call_id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c, _ in made
            ]
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": r.call_id, "content": r.content} for r in results]
        parent = calls[-1].call_id if calls else None
        tools = tuple(c for c, _ in made)
        calls.append(Call(f"c{i}", parent, "main", (1,), (2,), (-0.5,), (0,), {}, "stop", message, tools, results))
    if calls:
        calls[-1] = replace(calls[-1], finish_reason=finish)
    task = Task("t1", dict(public or {}))
    return Attempt("a1", task, Trajectory(tuple(calls), stop), tuple(messages), state, trace_id="trace_1")


Answer = Callable[[httpx.Request], httpx.Response]


def graded(result: Any, *, steps: list[dict[str, str]] | None = None, **message: Any) -> httpx.Response:
    """A judge's answer in OpenAI's form."""
    content = json.dumps({"steps": steps or [], "result": result})
    body = {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return httpx.Response(200, json=body)


def judge(answer: Answer, **settings: Any) -> Judge:
    """A judge whose server is a function; retries do not wait."""
    return Judge("http://judge/v1", backoff_seconds=0.0, transport=httpx.MockTransport(answer), **settings)

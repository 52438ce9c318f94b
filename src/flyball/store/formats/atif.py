"""ATIF, the Agent Trajectory Interchange Format of Harbor (RFC 0001), version 1.4 written, every 1.x read.

A step is a system prompt, a user's message or an agent's turn; what tools answered is the observation of the turn that
called them. Messages that a step cannot say word for word (arguments that are no JSON object, content in parts, an
answer to no call) are also kept as they were under `extra.flyball`, and reading prefers them: out and in again is the
same trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from flyball.errors import StoreError
from flyball.store.formats.trace import Trace
from flyball.types import Message

VERSION = "ATIF-v1.4"
_SOURCES = {"system": "system", "developer": "system", "user": "user", "assistant": "agent"}
_ROLES = {"system": "system", "user": "user", "agent": "assistant"}


def write(traces: Iterable[Trace]) -> Iterator[bytes]:
    """Yield one trajectory a line."""
    for trace in traces:
        yield orjson.dumps(_trajectory(trace), option=orjson.OPT_APPEND_NEWLINE)


def read(data: bytes) -> list[Trace]:
    """Read trajectories: one document, a list of them, or one a line. Raises StoreError."""
    try:
        documents = _documents(data)
        return [_trace(document) for document in documents]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"this is no ATIF trajectory: {type(error).__name__} {error}") from error


def _documents(data: bytes) -> list[Any]:
    try:
        read = orjson.loads(data)
    except orjson.JSONDecodeError:
        return [orjson.loads(line) for line in data.splitlines() if line.strip()]
    return read if isinstance(read, list) else [read]


# --- writing ---------------------------------------------------------------------------------------------------------


def _trajectory(trace: Trace) -> dict[str, Any]:
    ours = {
        "outcome": trace.outcome,
        "seconds": trace.seconds,
        "at": trace.at,
        "meta": trace.meta,
        "tools": trace.tools,
    }
    metrics = {
        "total_prompt_tokens": trace.tokens_in,
        "total_completion_tokens": trace.tokens_out,
        "total_cost_usd": trace.cost_usd,
    }
    agent = {"name": trace.agent, "version": str(trace.meta.get("version") or "unknown"), "model_name": trace.model}
    return {
        "schema_version": VERSION,
        "session_id": trace.session,
        "agent": agent,
        "steps": _steps(trace),
        "final_metrics": {name: value for name, value in metrics.items() if value is not None},
        "extra": {"flyball": ours},
    }


def _steps(trace: Trace) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for group in _groups(trace.messages):
        step = {"step_id": len(steps) + 1, **_step(group)}
        if trace.at is not None and not steps:
            step["timestamp"] = datetime.fromtimestamp(trace.at, UTC).isoformat()
        if _messages(step) != list(group):
            step["extra"] = {"flyball": {"messages": group}}
        steps.append(step)
    return steps


def _groups(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield each message with the answers of tools that follow it."""
    group: list[Message] = []
    for message in messages:
        if group and message.get("role") == "tool" and group[0].get("role") == "assistant":
            group.append(message)
            continue
        if group:
            yield group
        group = [message]
    if group:
        yield group


def _step(group: Sequence[Message]) -> dict[str, Any]:
    first, *answers = group
    step: dict[str, Any] = {"source": _SOURCES.get(str(first.get("role")), "system"), "message": _text(first)}
    if step["source"] != "agent":
        return step
    if isinstance(reasoning := first.get("reasoning_content"), str):
        step["reasoning_content"] = reasoning
    if calls := [_call(call) for call in first.get("tool_calls") or ()]:
        step["tool_calls"] = calls
    if answers:
        results = [{"source_call_id": one.get("tool_call_id"), "content": _text(one)} for one in answers]
        step["observation"] = {"results": results}
    return step


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError):
        arguments = None
    return {
        "tool_call_id": str(call.get("id") or ""),
        "function_name": str(function.get("name") or ""),
        "arguments": arguments if isinstance(arguments, dict) else {},
    }


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


# --- reading ---------------------------------------------------------------------------------------------------------


def _trace(document: Mapping[str, Any]) -> Trace:
    if not str(document.get("schema_version", "")).startswith("ATIF-v1."):
        raise ValueError(f"schema_version is {document.get('schema_version')!r}, not ATIF-v1.x")
    ours = (document.get("extra") or {}).get("flyball") or {}
    agent, metrics = document["agent"], document.get("final_metrics") or {}
    messages: list[Message] = []
    for step in document["steps"]:
        kept = ((step.get("extra") or {}).get("flyball") or {}).get("messages")
        messages += kept if kept is not None else _messages(step)
    return Trace(
        session=document.get("session_id") or document.get("trajectory_id") or "",
        messages=tuple(messages),
        agent=agent["name"],
        model=agent.get("model_name") or "",
        tools=tuple(ours.get("tools") or agent.get("tool_definitions") or ()),
        tokens_in=metrics.get("total_prompt_tokens"),
        tokens_out=metrics.get("total_completion_tokens"),
        cost_usd=metrics.get("total_cost_usd"),
        seconds=ours.get("seconds"),
        at=ours.get("at"),
        outcome=ours.get("outcome"),
        meta=ours["meta"] if "meta" in ours else {"source": "atif", "version": agent.get("version", "")},
    )


def _messages(step: Mapping[str, Any]) -> list[Message]:
    message: dict[str, Any] = {"role": _ROLES[step["source"]], "content": step.get("message") or ""}
    if "reasoning_content" in step:
        message["reasoning_content"] = step["reasoning_content"]
    if calls := step.get("tool_calls"):
        message["tool_calls"] = [
            {
                "id": call["tool_call_id"],
                "type": "function",
                "function": {"name": call["function_name"], "arguments": json.dumps(call["arguments"])},
            }
            for call in calls
        ]
    results = (step.get("observation") or {}).get("results") or []
    answers = [
        {"role": "tool", "tool_call_id": one.get("source_call_id") or "", "content": one.get("content") or ""}
        for one in results
    ]
    return [message, *answers]

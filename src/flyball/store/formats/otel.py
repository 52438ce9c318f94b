"""Traces out of OpenTelemetry GenAI spans, as OTLP's JSON has them (one request, or one a line).

Read are spans of inference (`chat`, `generate_content`, `text_completion`) that hold content: in the attributes
`gen_ai.input.messages` and `gen_ai.output.messages`, or in the events of conventions before 1.36
(`gen_ai.user.message`, ..., `gen_ai.choice`). Every span repeats the conversation so far, so those that another one
goes on from are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from flyball.errors import StoreError
from flyball.store.formats.trace import Trace, leaves
from flyball.types import Message

_INFERENCE = ("chat", "generate_content", "text_completion")


def read(data: bytes) -> list[Trace]:
    """Read traces. Raises StoreError where no span of inference holds content."""
    try:
        spans = [span for document in _documents(data) for span in _spans(document)]
        named = [(span, _attributes(span.get("attributes"))) for span in spans]
        inference = [one for one in named if one[1].get("gen_ai.operation.name") in _INFERENCE]
        found = [_trace(span, attributes) for span, attributes in inference]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"these are no spans in OTLP's JSON: {type(error).__name__} {error}") from error
    traces = [trace for trace in found if trace.messages]
    if not traces:
        raise StoreError(
            f"of {len(spans)} spans {len(inference)} are of inference and none holds messages; switch the recording of "
            "content on where they are made"
        )
    return leaves(traces)


def _documents(data: bytes) -> list[Any]:
    try:
        return [orjson.loads(data)]
    except orjson.JSONDecodeError:
        return [orjson.loads(line) for line in data.splitlines() if line.strip()]


def _spans(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for resource in document["resourceSpans"]:
        for scope in resource.get("scopeSpans") or ():
            yield from scope.get("spans") or ()


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value") or {}) for pair in pairs or ()}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, item in value.items():
        if kind == "intValue":
            return int(item)
        if kind == "arrayValue":
            return [_value(one) for one in item.get("values") or ()]
        if kind == "kvlistValue":
            return _attributes(item.get("values"))
        return item
    return None


def _trace(span: Mapping[str, Any], given: Mapping[str, Any]) -> Trace:
    asked, said = _json(given.get("gen_ai.input.messages")), _json(given.get("gen_ai.output.messages"))
    messages = [part for one in [*asked, *said] for part in _said(one)] or list(_of_events(span))
    system = _json(given.get("gen_ai.system_instructions"))
    if system:
        messages.insert(0, {"role": "system", "content": _joined(system)})
    start, end = int(span.get("startTimeUnixNano") or 0), int(span.get("endTimeUnixNano") or 0)
    tokens = {name: given.get(f"gen_ai.usage.{name}_tokens") for name in ("input", "output", "prompt", "completion")}
    return Trace(
        session=str(given.get("gen_ai.conversation.id") or span.get("traceId") or ""),
        messages=tuple(messages),
        agent=str(given.get("gen_ai.agent.name") or "main"),
        model=str(given.get("gen_ai.response.model") or given.get("gen_ai.request.model") or ""),
        tools=tuple(_tool(tool) for tool in _json(given.get("gen_ai.tool.definitions"))),
        tokens_in=tokens["input"] if tokens["input"] is not None else tokens["prompt"],
        tokens_out=tokens["output"] if tokens["output"] is not None else tokens["completion"],
        seconds=(end - start) / 1e9 if end else None,
        at=start / 1e9 if start else None,
        meta={"source": "otel", "trace_id": span.get("traceId"), "span_id": span.get("spanId")},
    )


def _json(value: Any) -> list[Any]:
    read = json.loads(value) if isinstance(value, str) else value
    return list(read) if isinstance(read, list) else []


def _said(message: Mapping[str, Any]) -> Iterator[Message]:
    """A message in parts as messages of Chat Completions: each answer of a tool is one of its own."""
    parts = message.get("parts") or []
    answers = [part for part in parts if part.get("type") == "tool_call_response"]
    for part in answers:
        answer = part.get("response", part.get("result"))
        content = answer if isinstance(answer, str) else json.dumps(answer)
        yield {"role": "tool", "tool_call_id": part.get("id") or "", "content": content}
    if answers and len(answers) == len(parts):
        return
    said: dict[str, Any] = {"role": message["role"], "content": _joined(parts)}
    if reasoning := "".join(part.get("content") or "" for part in parts if part.get("type") == "reasoning"):
        said["reasoning_content"] = reasoning
    if calls := [_call(part) for part in parts if part.get("type") == "tool_call"]:
        said["tool_calls"] = calls
    yield said


def _joined(parts: list[Any]) -> str:
    return "".join(part.get("content") or "" for part in parts if part.get("type") == "text")


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    given = part.get("arguments")
    arguments = given if isinstance(given, str) else json.dumps(given if given is not None else {})
    return {"id": part.get("id") or "", "type": "function", "function": {"name": part["name"], "arguments": arguments}}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _of_events(span: Mapping[str, Any]) -> Iterator[Message]:
    """Messages of the conventions before 1.36: one event each, content in its attributes."""
    for event in span.get("events") or ():
        name, given = str(event.get("name", "")), _attributes(event.get("attributes"))
        if name == "gen_ai.choice":
            said = given.get("message") or given
            said = json.loads(said) if isinstance(said, str) else said
            yield {
                "role": "assistant",
                "content": "",
                **{k: v for k, v in said.items() if k in ("content", "tool_calls")},
            }
        elif name.startswith("gen_ai.") and name.endswith(".message"):
            role = name.removeprefix("gen_ai.").removesuffix(".message")
            kept = {"tool_call_id": given["id"]} if role == "tool" and "id" in given else {}
            yield {"role": role, "content": given.get("content") or "", **kept}

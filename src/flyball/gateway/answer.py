"""What came back, read for capture: the assistant's turn out of a body or of a stream, in either form.

Reading never fails a request: bytes have long gone to the agent when they are read here. What cannot be read says why
in `problem`, and is kept as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from flyball.gateway.extras import Sampled, read_tokens, sse_data
from flyball.gateway.request import Form
from flyball.types import Message


@dataclass(frozen=True)
class Answer:
    """`message` in the form of Chat Completions, None where none could be read; then `problem` says why."""

    message: Message | None
    finish_reason: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int = 0
    response_id: str = ""
    model: str = ""
    problem: str = ""
    tokens: Sampled | None = None
    """where the upstream told them; see `extras.py`"""


def read_answer(form: Form, content_type: str, body: bytes) -> Answer:
    """Read a whole answer."""
    try:
        if content_type.startswith("text/event-stream"):
            events = list(sse_data(body))
            return _chat_stream(events) if form == "chat" else _responses_stream(events)
        read = orjson.loads(body)
        return _chat(read) if form == "chat" else _response(read)
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Answer(None, problem=f"{type(error).__name__}: {str(error)[:160]}")


def _chat(read: Mapping[str, Any]) -> Answer:
    choice = read["choices"][0]
    message = {name: value for name, value in choice["message"].items() if value is not None and name in _KEPT}
    for call in message.get("tool_calls", ()):
        if not (
            isinstance(call["id"], str) and isinstance(call["function"]["name"] + call["function"]["arguments"], str)
        ):
            raise ValueError(f"a tool call is {str(call)[:80]}")
    about = {**_about(read, read.get("usage")), "tokens": read_tokens([read])}
    return Answer(_message(message), str(choice.get("finish_reason") or ""), **about)


_KEPT = ("role", "content", "tool_calls", "refusal", "reasoning_content")


def _message(read: dict[str, Any]) -> Message:
    return {"role": "assistant", "content": "", **read}


@dataclass
class _Turn:
    """A turn that grows by deltas."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, delta: Mapping[str, Any]) -> None:
        for name in ("content", "refusal", "reasoning_content"):
            if delta.get(name):
                self.texts.setdefault(name, []).append(delta[name])
        for part in delta.get("tool_calls") or ():
            call = self.calls.setdefault(
                int(part.get("index", 0)), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] = part.get("id") or call["id"]
            function = part.get("function") or {}
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""

    def message(self) -> Message:
        said: dict[str, Any] = {name: "".join(parts) for name, parts in self.texts.items()}
        if self.calls:
            said["tool_calls"] = [self.calls[i] for i in sorted(self.calls)]
        return _message(said)


def _chat_stream(events: list[bytes]) -> Answer:
    turn, finish, usage, done = _Turn(), "", None, False
    about: dict[str, Any] = {}
    chunks: list[Mapping[str, Any]] = []
    for data in events:
        if data == b"[DONE]":
            done = True
            break
        chunk = orjson.loads(data)
        if chunk.get("error"):
            raise ValueError(f"the upstream's stream says {str(chunk['error'])[:120]}")
        about = about or chunk
        chunks.append(chunk)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                turn.add(choice.get("delta") or {})
                finish = choice.get("finish_reason") or finish
    if not (done or finish):
        return Answer(turn.message() if about else None, problem="the stream ended before its answer did")
    return Answer(turn.message(), finish, tokens=read_tokens(chunks), **_about(about, usage))


def _responses_stream(events: list[bytes]) -> Answer:
    for data in reversed(events):
        event = orjson.loads(data)
        if event.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            return _response(event["response"])
    return Answer(None, problem="the stream ended before its answer did")


def _response(read: Mapping[str, Any]) -> Answer:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in read["output"]:
        if item["type"] == "message":
            texts += [part["text"] for part in item["content"] if part.get("type") == "output_text"]
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item["call_id"], "type": "function", "function": function})
    message: Message = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message["tool_calls"] = calls
    cut = read.get("status") == "incomplete"
    finish = "length" if cut else "tool_calls" if calls else "stop"
    return Answer(message, finish, **_about(read, read.get("usage")))


def _about(read: Mapping[str, Any], usage: Mapping[str, Any] | None) -> dict[str, Any]:
    used = usage or {}
    details = used.get("prompt_tokens_details") or used.get("input_tokens_details") or {}
    return {
        "tokens_in": used.get("prompt_tokens", used.get("input_tokens")),
        "tokens_out": used.get("completion_tokens", used.get("output_tokens")),
        "tokens_cached": int(details.get("cached_tokens") or 0),
        "response_id": str(read.get("id") or ""),
        "model": str(read.get("model") or ""),
    }

"""OpenAI's Responses form over the same door: items in, items and events out.

A conversation in items becomes the messages that Chat Completions would carry, so both forms continue the same sampled
tokens. `previous_response_id` names an answer of the same attempt, whose conversation goes on; as with OpenAI, the
`instructions` and `tools` of that request are not taken over. The rules for fields are those of `openai_form.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyball.capture.constraint import Constraint
from flyball.capture.door import Reply
from flyball.capture.openai_form import (
    DECLARED,
    ONLY,
    POLICY,
    BadRequest,
    FieldRules,
    constraint_of,
    is_text_part,
    read_stream_options,
    short,
)
from flyball.engine.protocol import SamplingParams
from flyball.types import Message

Conversation = tuple[Message, ...]
"""Messages of a stored response, its own reply included, without the instructions."""

NOTHING_TO_INCLUDE = ("reasoning.encrypted_content",)
"""What a request may ask to be included: a part of items that are never written here."""

_SHARED = ("temperature", "top_p", "service_tier")
RULES = FieldRules(
    read=frozenset(
        {
            "input",
            "model",
            "instructions",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "text",
            "stream",
            "stream_options",
            "previous_response_id",
            "store",
            "include",
            "metadata",
        }
    ),
    harmless=frozenset({"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}),
    only={
        **{name: values for name, values in ONLY.items() if name in _SHARED},
        "truncation": ("disabled",),
        "background": (False,),
        "reasoning": ({},),
        "top_logprobs": (0,),
    },
    declared={
        **{name: ours for name, ours in DECLARED.items() if name in _SHARED},
        "max_output_tokens": "max_new_tokens",
    },
)

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text")
_ITEM_KEYS: Mapping[str, frozenset[str]] = {
    "message": frozenset({"type", "role", "content", "id", "status"}),
    "function_call": frozenset({"type", "call_id", "name", "arguments", "id", "status"}),
    "function_call_output": frozenset({"type", "call_id", "output", "id", "status"}),
}


@dataclass(frozen=True)
class ResponseRequest:
    """A request with its conversation put together. `body` is what was asked, for the fields an answer repeats."""

    body: Mapping[str, Any]
    conversation: Conversation
    tools: list[dict[str, Any]]
    constraint: Constraint | None

    @property
    def messages(self) -> list[Message]:
        """What the policy is shown: the instructions of this request, then the conversation."""
        instructions = self.body.get("instructions")
        return [*([{"role": "system", "content": instructions}] if instructions else []), *self.conversation]

    @property
    def model(self) -> str:
        return str(self.body.get("model") or POLICY)

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def store(self) -> bool:
        return self.body.get("store") is not False


def read_response_request(body: Any, sampling: SamplingParams, stored: Mapping[str, Conversation]) -> ResponseRequest:
    """Read a request body against the declared sampling and the attempt's stored responses. Raises BadRequest."""
    RULES.check(body, sampling)
    read_stream_options(body.get("stream_options"), bool(body.get("stream")), ())
    for wanted in body.get("include") or ():
        if wanted not in NOTHING_TO_INCLUDE:
            raise BadRequest(f"include: {short(wanted)} is not served here, so it is refused", "include", "unsupported")
    if not isinstance(body.get("instructions") or "", str):
        raise BadRequest(f"instructions are {short(body['instructions'])}; they must be text", "instructions")
    conversation = [*_previous(body.get("previous_response_id"), stored), *_read_input(body.get("input"))]
    if not conversation:
        raise BadRequest("input must be text or a list with at least one item", "input")
    tools, parallel = _read_tools(body.get("tools")), body.get("parallel_tool_calls")
    choice = _choice_of(body.get("tool_choice"))
    constraint = constraint_of(tools, choice, parallel, _format_of(body.get("text")), "text.format")
    return ResponseRequest(body, tuple(conversation), tools, constraint)


def _choice_of(choice: Any) -> Any:
    """`tool_choice` with a named function as {"function": NAME}."""
    named = isinstance(choice, dict) and choice.get("type") == "function"
    return {"function": choice.get("name")} if named else choice


def _format_of(text: Any) -> Any:
    text = {} if text is None else text
    if not isinstance(text, dict) or (ignored := [name for name, value in text.items() if value and name != "format"]):
        name = f"text.{ignored[0]}" if isinstance(text, dict) else "text"
        raise BadRequest(f"{name} would be ignored here, so it is refused; text takes a format", name, "unsupported")
    return text.get("format")


def _previous(response_id: Any, stored: Mapping[str, Conversation]) -> Conversation:
    if not response_id:
        return ()
    if response_id not in stored:
        raise BadRequest(
            f"no response {response_id!r} is stored in this attempt; responses are kept for the attempt that asked, "
            "unless `store` was false",
            "previous_response_id",
            "previous_response_not_found",
        )
    return stored[response_id]


def _read_input(given: Any) -> list[Message]:
    if given is None:
        return []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise BadRequest(f"input is {short(given)}; it must be text or a list of items", "input")
    messages: list[Message] = []
    for i, item in enumerate(given):
        _add_item(messages, item, f"input[{i}]")
    return messages


def _add_item(messages: list[Message], item: Any, where: str) -> None:
    """Append one item; a function call joins the assistant's turn before it, for it was said in the same turn."""
    kind = str(item.get("type") or "message") if isinstance(item, dict) else ""
    if kind not in _ITEM_KEYS:
        raise BadRequest(
            f"{where} is {short(item)}; items of type {', '.join(_ITEM_KEYS)} are served here", where, "unsupported"
        )
    if ignored := [name for name, value in item.items() if value and name not in _ITEM_KEYS[kind]]:
        raise BadRequest(f"{where}.{ignored[0]} would be ignored here, so it is refused", f"{where}.{ignored[0]}")
    if kind == "message":
        if item.get("role") not in _ROLES:
            raise BadRequest(f"{where} needs a role out of {', '.join(_ROLES)}; it is {short(item)}", where)
        role = "system" if item["role"] == "developer" else item["role"]
        messages.append({"role": role, "content": _read_text(item.get("content"), f"{where}.content")})
    elif kind == "function_call":
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
        call = {"id": _string(item, "call_id", where), "type": "function", "function": function}
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        shown = _read_text(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": _string(item, "call_id", where), "content": shown})


def _read_text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(is_text_part(part, _TEXT_PARTS) for part in content):
        return "".join(part["text"] for part in content)
    raise BadRequest(f"{where} must be text or text parts; it is {short(content)}", where)


def _string(item: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(item.get(name), str):
        raise BadRequest(f"{where}.{name} is {short(item.get(name))}; it must be a string", f"{where}.{name}")
    return str(item[name])


def _read_tools(tools: Any) -> list[dict[str, Any]]:
    """Function tools in the nested form of Chat Completions, which is what templates know."""
    nested = []
    for i, tool in enumerate(tools or []):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("name"), str):
            raise BadRequest(
                f"tools[{i}] is {short(tool)}; only functions are served here: {{type: function, name, ...}}", "tools"
            )
        function = {name: value for name, value in tool.items() if name != "type" and value is not None}
        nested.append({"type": "function", "function": function})
    return nested


def response_id(reply: Reply) -> str:
    """The name of an answer, unique in its attempt."""
    return f"resp_{reply.call_id}"


def response_body(reply: Reply, asked: ResponseRequest, sampling: SamplingParams) -> dict[str, Any]:
    """The whole answer of a request without `stream`."""
    body = asked.body
    cut = reply.finish_reason == "length"
    given, sampled = reply.num_prompt_tokens, reply.num_completion_tokens
    return {
        "id": response_id(reply),
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": asked.model,
        "output": _output(reply, "incomplete" if cut else "completed"),
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "store": asked.store,
        "temperature": sampling.temperature,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": getattr(sampling, "top_p", 1.0),
        "truncation": "disabled",
        "metadata": body.get("metadata") or {},
        "usage": {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": reply.num_cached_tokens},
            "output_tokens": sampled,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + sampled,
        },
    }


def _output(reply: Reply, status: str) -> list[dict[str, Any]]:
    """What was said, then what was called; a turn that only calls has no message."""
    content, calls = reply.message["content"], reply.message.get("tool_calls", ())
    items: list[dict[str, Any]] = []
    if content or not calls:
        part = {"type": "output_text", "text": content, "annotations": [], "logprobs": []}
        message_id = f"msg_{reply.call_id}"
        items.append({"id": message_id, "type": "message", "role": "assistant", "status": status, "content": [part]})
    for call in calls:
        items.append(
            {
                "id": f"fc_{call['id']}",
                "type": "function_call",
                "status": status,
                "call_id": call["id"],
                **call["function"],
            }
        )
    return items


def response_events(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed answer, in OpenAI's order, numbered from 0."""
    started = {**body, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
    ]
    for index, item in enumerate(body["output"]):
        said = _message_events(item, index) if item["type"] == "message" else _function_call_events(item, index)
        events += said
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{body['status']}", "response": body})
    return [{**event, "sequence_number": i} for i, event in enumerate(events)]


def _message_events(item: dict[str, Any], index: int) -> list[dict[str, Any]]:
    (part,) = item["content"]
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    begun = {**item, "status": "in_progress", "content": []}
    deltas = [{"type": "response.output_text.delta", **where, "delta": part["text"], "logprobs": []}]
    return [
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *(deltas if part["text"] else ()),
        {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
    ]


def _function_call_events(item: dict[str, Any], index: int) -> list[dict[str, Any]]:
    where = {"item_id": item["id"], "output_index": index}
    whole = item["arguments"]
    begun = {**item, "status": "in_progress", "arguments": ""}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        {"type": "response.function_call_arguments.delta", **where, "delta": whole},
        {"type": "response.function_call_arguments.done", **where, "name": item["name"], "arguments": whole},
    ]

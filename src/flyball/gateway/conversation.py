"""Conversations by content: which earlier call a request continues, told without any state that workers would share.

A conversation is a chain of digests, one for each message: d_0 = H(tools), d_i = H(d_{i-1}, message_i). A call `ends`
at the digest after its own turn; a later request `continues` the digest at its last assistant turn. Equal digests link
the two, so a retry is a sibling (same `stands_at`), a branch shares a beginning, and a side agent with other tools or
another first message has a root of its own. Spacing of an assistant's turn and the ids of its calls do not count:
frameworks rewrite both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from flyball.capture.ledger import json_form
from flyball.gateway.request import Asked
from flyball.types import Message


@dataclass(frozen=True)
class Spoken:
    """A request's conversation. `continues` is '' when no assistant has spoken; the first `num_seen` messages lead
    there."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    stands_at: str
    continues: str
    num_seen: int

    def ends(self, message: Message) -> str:
        """The digest after the assistant's next turn."""
        return _step(self.stands_at, message)


def spoken(asked: Asked, previous: str = "") -> Spoken:
    """Read a request's conversation. `previous`: the digest at which a stored response ended that it goes on from."""
    messages = _chat_messages(asked) if asked.form == "chat" else _response_messages(asked)
    tools = asked.value("tools") or []
    at = previous or _digest(orjson.dumps(tools, option=orjson.OPT_SORT_KEYS))
    continues, num_seen = previous, 0
    for i, message in enumerate(messages, 1):
        at = _step(at, message)
        if message.get("role") == "assistant":
            continues, num_seen = at, i
    return Spoken(messages, tools, at, continues, num_seen)


def opening(asked: Asked) -> str:
    """A digest of the conversation up to its first user message: what tells sessions apart that nobody named."""
    messages = _chat_messages(asked) if asked.form == "chat" else _response_messages(asked)
    at = ""
    for message in messages:
        at = _step(at, message)
        if message.get("role") == "user":
            break
    return at


def text_of_content(content: Any) -> str:
    """Text of a message's content; parts that are no text (pictures) stand as their JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(
            part["text"]
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else orjson.dumps(part, option=orjson.OPT_SORT_KEYS).decode()
            for part in content
        )
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS).decode()


def _chat_messages(asked: Asked) -> list[Message]:
    return [message for message in _listed(asked.value("messages")) if isinstance(message, dict)]


def _response_messages(asked: Asked) -> list[Message]:
    """Items as the messages that Chat Completions would carry; items of other types (reasoning) are left out."""
    instructions, given = asked.value("instructions"), asked.value("input")
    messages: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in _listed(given):
        if not isinstance(item, dict):
            continue
        kind = item.get("type") or "message"
        if kind == "message":
            messages.append({"role": str(item.get("role")), "content": text_of_content(item.get("content"))})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            shown = text_of_content(item.get("output"))
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": shown})
    return messages


def _step(at: str, message: Mapping[str, Any]) -> str:
    role, text = str(message.get("role")), text_of_content(message.get("content"))
    if role != "assistant":
        return _digest(f"{at}\n{role}\n{text}".encode("utf-8", "surrogatepass"))
    calls = [
        f"{function.get('name')}({json_form(str(function.get('arguments') or ''))})"
        for call in _listed(message.get("tool_calls"))
        if isinstance(call, dict) and isinstance(function := call.get("function"), dict)
    ]
    said = "\n".join([at, role, "".join(text.split()), *calls])
    return _digest(said.encode("utf-8", "surrogatepass"))


def _listed(value: Any) -> list[Any]:
    """What should be a list, and may be anything."""
    return value if isinstance(value, list) else []


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()

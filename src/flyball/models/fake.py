"""A chat format without a model: bytes, a few role tokens, and Hermes tool calls. Public, for tests and benchmarks.

A conversation is `ROLE bytes END` per message, tools first, and it ends with the ASSISTANT token where the policy
speaks, so every conversation is a prefix of its continuations. Every byte has two tokens: `b` as rendered and
`SAMPLED + b` as `encode_sampled` writes it. Both decode to the same text, which is how real tokenizers behave when a
policy samples a spelling the encoder would not choose; code that decodes and encodes again on the way to the gradient
is caught by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flyball.models.chat import CallForm, Parsed
from flyball.models.tool_formats import HERMES, TOOL_FORMATS
from flyball.types import Message

ROLES = {"system": 256, "user": 257, "assistant": 258, "tool": 259}
END = 260
TOOLS = 261
SAMPLED = 512

_ROLE_OF = {token: role for role, token in ROLES.items()}


def tool_call_text(name: str, **arguments: Any) -> str:
    """What a model writes to call a tool."""
    return _tool_call(name, json.dumps(arguments))


class FakeChat:
    """A prefix-stable ChatFormat over bytes. `stable=False` imitates a template that edits history."""

    def __init__(self, *, stable: bool = True) -> None:
        self._stable = stable

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (END,)

    @property
    def call_form(self) -> CallForm:
        return HERMES

    @property
    def keeps_strict(self) -> bool:
        return False

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        ids: list[int] = []
        if tools:
            ids += [TOOLS, *json.dumps(list(tools)).encode(), END]
        return [*ids, *_render(messages), ROLES["assistant"]]

    def render_more(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_seen: int, ended: bool
    ) -> list[int] | None:
        if not self._stable:
            return None
        end = [] if ended else [END]
        return [*end, *_render(messages[num_seen:]), ROLES["assistant"]]

    def parse(self, token_ids: Sequence[int]) -> Parsed:
        """Read the Hermes tool calls of a turn; one that cannot be read makes the whole turn malformed."""
        return TOOL_FORMATS["hermes"].parse(self.decode(token_ids))

    def encode_sampled(self, text: str) -> list[int]:
        """The tokens of a finished assistant turn in the spelling that rendering never produces."""
        return [*(SAMPLED + byte for byte in text.encode()), END]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the byte tokens; role tokens are left out."""
        return self.decode_bytes(token_ids).decode(errors="replace")

    def decode_bytes(self, token_ids: Sequence[int]) -> bytes:
        """As `decode`, before the bytes are read as text."""
        return bytes(t if t < 256 else t - SAMPLED for t in token_ids if t < 256 or t >= SAMPLED)

    def messages(self, token_ids: Sequence[int]) -> list[Message]:
        """Read a rendered conversation back, role and raw text of each turn; for scripted engines."""
        found: list[Message] = []
        start = 0
        for i, token in enumerate(token_ids):
            if token in _ROLE_OF:
                found.append({"role": _ROLE_OF[token], "content": ""})
                start = i + 1
            elif token == END and found and start:
                found[-1]["content"] = self.decode(token_ids[start:i])
        return found[:-1]  # the last role token is the assistant about to speak


def _render(messages: Sequence[Message]) -> list[int]:
    ids: list[int] = []
    for message in messages:
        text = message.get("content") or ""
        for call in message.get("tool_calls") or ():
            function = call["function"]
            text += _tool_call(function["name"], function["arguments"])
        ids += [ROLES[message["role"]], *text.encode(), END]
    return ids


def _tool_call(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {arguments}}}</tool_call>'

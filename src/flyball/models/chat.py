"""Messages to tokens and back: the one renderer of training, evaluation and serving (invariant 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flyball.types import Message, ToolCall


@dataclass(frozen=True)
class Parsed:
    """An assistant turn read from sampled tokens. `malformed` explains a tool call that could not be read."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    malformed: str | None = None


class ChatFormat(Protocol):
    """How one model family writes a conversation."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an assistant turn."""
        ...

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of a whole conversation, ending where the assistant speaks. `tools`: OpenAI function schemas."""
        ...

    def render_more(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_seen: int, ended: bool
    ) -> list[int] | None:
        """Token ids that follow the sampled assistant turn `messages[num_seen - 1]` up to the next assistant turn.

        `ended`: the sampled turn already ends with a stop token. None when the template is not prefix-stable here: the
        caller must then render the whole conversation as a new branch.
        """
        ...

    def parse(self, token_ids: Sequence[int]) -> Parsed:
        """Read one sampled assistant turn (its stop token may be there or not). Never raises on what a model wrote."""
        ...

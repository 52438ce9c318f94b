"""Messages to tokens and back: the one renderer of training, evaluation and serving (invariant 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flyball.types import Message, ToolCall


@dataclass(frozen=True)
class Parsed:
    """An assistant turn read from sampled tokens. `malformed` explains a tool call that could not be read."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    malformed: str | None = None


@dataclass(frozen=True)
class CallForm:
    """Where the JSON of a tool call stands in a turn: what a grammar needs to hold it.

    A call is `before`, JSON, `after`; calls are joined by `joint`, all of them lie between `opening` and `closing`.
    `keys` are those of name and arguments inside the JSON; None = the JSON is the arguments, and NAME in `before` is
    the tool. `ends_turn`: a turn has one call at most, whose `after` is its stop token. `tokens`: ids of the special
    tokens in these texts.
    """

    before: str
    after: str
    keys: tuple[str, str] | None = ("name", "arguments")
    joint: str = ""
    opening: str = ""
    closing: str = ""
    ends_turn: bool = False
    tokens: Mapping[str, int] = field(default_factory=dict)


class ChatFormat(Protocol):
    """How one model family writes a conversation."""

    @property
    def call_form(self) -> CallForm | None:
        """How a turn holds tool calls, for grammars; None where they cannot be constrained."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an assistant turn."""
        ...

    @property
    def keeps_strict(self) -> bool:
        """Whether tools reach whoever answers as they are given, so that it holds itself to the `strict` ones."""
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

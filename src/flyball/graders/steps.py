"""What an attempt did, call by call, and what it had seen when it did it: the view of graders of deeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flyball.graders.row import arguments_of
from flyball.types import Attempt, ToolCall, ToolResult


@dataclass(frozen=True)
class Step:
    """One tool call. `turn` counts model calls; `result` is None when nothing came back (the attempt ended first)."""

    turn: int
    call: ToolCall
    result: ToolResult | None

    @property
    def name(self) -> str:
        return self.call.name

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments, none when the model wrote no JSON object."""
        return arguments_of(self.call) or {}

    @property
    def done(self) -> bool:
        """Whether the tool did its work."""
        return self.result is not None and self.result.problem is None

    @property
    def shown(self) -> str:
        """What the model was shown for it."""
        return self.result.content if self.result is not None else ""


def steps_of(attempt: Attempt) -> list[Step]:
    """Return every tool call of an attempt in the order they were made."""
    steps = []
    for turn, call in enumerate(attempt.trajectory.calls):
        results = {result.call_id: result for result in call.tool_results}
        steps += [Step(turn, made, results.get(made.call_id)) for made in call.tool_calls]
    return steps


def told(attempt: Attempt) -> str:
    """Return what people and the system told the policy, without its own words and without tool results."""
    return "\n".join(str(m.get("content") or "") for m in attempt.messages if m["role"] not in ("assistant", "tool"))


def written(attempt: Attempt) -> str:
    """Return all text of the assistant, that beside tool calls too, one message after another."""
    return "\n".join(str(m.get("content") or "") for m in attempt.messages if m["role"] == "assistant")


def leaves(value: Any) -> Iterator[str]:
    """Yield the numbers and texts inside a JSON value, as text; yes, no and nothing say too little to be found."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from leaves(inner)
    elif value is not None and not isinstance(value, bool) and str(value).strip():
        yield str(value).strip()


def occurs(what: str, text: str) -> bool:
    """Whether a text names it as a word of its own, whatever the case: 12 is not in 1200."""
    return re.search(rf"(?<![\w.]){re.escape(what)}(?!\w)(?!\.\d)", text, re.IGNORECASE) is not None

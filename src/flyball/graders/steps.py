"""What an attempt did, call by call, and what it had seen when it did it: the view of graders of deeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flyball.graders.row import arguments_of
from flyball.types import Attempt, ToolCall, ToolResult

DEEPEST = 60
"""Levels of nesting in arguments that graders read."""


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
        """The arguments, none when the model wrote no JSON object, or one nested beyond reason."""
        arguments = arguments_of(self.call)
        return {} if arguments is None or is_deep(arguments) else arguments

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
    for atom in atoms(value):
        if atom is not None and not isinstance(atom, bool) and (text := str(atom).strip()):
            yield text


def atoms(value: Any) -> Iterator[Any]:
    """Yield what is neither list nor mapping inside a JSON value, in order, however deep a policy nested it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend(reversed(list(one.values())))
        elif isinstance(one, (list, tuple)):
            waiting.extend(reversed(one))
        else:
            yield one


def is_deep(value: Any) -> bool:
    """Whether lists and mappings are nested deeper than any tool's arguments."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (one.values() if isinstance(one, Mapping) else one for one in level if isinstance(one, (Mapping, list)))
        level = [each for values in inner for each in values]
        if not level:
            return False
    return True


def occurs(what: str, text: str) -> bool:
    """Whether a text names it as a word of its own, whatever the case: 12 is not in 1200, nor in 12.5."""
    what, text = what.casefold(), text.casefold()
    at = text.find(what) if what else -1
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(what) : at + len(what) + 2]
        ends = not after[:1].isalnum() and after[:1] != "_" and not (after[:1] == "." and after[1:].isdecimal())
        if ends and not before.isalnum() and before not in ("_", "."):
            return True
        at = text.find(what, at + 1)
    return False

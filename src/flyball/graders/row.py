"""What an OpenAI grader sees of an attempt: `item`, the task's whole row, and `sample`, what the policy wrote last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flyball.errors import Fault
from flyball.graders.flags import NotGraded
from flyball.types import Attempt, Call, Message, StopReason, Task, ToolCall, ToolResult, Trajectory


@dataclass(frozen=True)
class Row:
    """One attempt in OpenAI's words.

    `item` holds the task's public and hidden fields side by side. `sample` is about the final assistant message:
    `output_text`, `choices`, and, only where there is such a thing, `output_json` and `output_tools` (the calls of
    that message; graders of whole attempts read `attempt.tool_calls`).
    """

    attempt: Attempt
    hidden: Mapping[str, Any]

    @cached_property
    def item(self) -> Mapping[str, Any]:
        """Raises NotGraded when a public and a hidden field share a name and differ."""
        public = self.attempt.task.public
        for key in public.keys() & self.hidden.keys():
            if public[key] != self.hidden[key]:
                raise NotGraded("invalid_variable_error", f"item.{key} is both public and hidden; rename one of them")
        return {**public, **self.hidden}

    @cached_property
    def last(self) -> Message:
        """The final assistant message; one without text when the assistant never spoke."""
        spoken = (m for m in reversed(self.attempt.messages) if m["role"] == "assistant")
        return next(spoken, {"role": "assistant", "content": ""})

    @property
    def output_text(self) -> str:
        return self.last.get("content") or ""

    @cached_property
    def output_json(self) -> Any:
        """The output as JSON. Raises NotGraded by the policy's fault when it is none."""
        try:
            return json.loads(self.output_text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            what = f"the output is not JSON ({error}): {self.output_text[:80]!r}"
            raise NotGraded("sample_parse_error", what, Fault.POLICY) from None

    @property
    def output_tools(self) -> list[dict[str, Any]]:
        """The calls of the final message. Raises NotGraded by the policy's fault when it called no tool."""
        if calls := self.last.get("tool_calls"):
            return list(calls)
        raise NotGraded("sample_parse_error", "the final message calls no tool", Fault.POLICY)

    @property
    def finish_reason(self) -> str:
        calls = self.attempt.trajectory.calls
        return calls[-1].finish_reason if calls else "stop"

    @property
    def truncated(self) -> bool:
        """Whether the sample was cut by length."""
        return self.attempt.stop is StopReason.MAX_TOKENS or self.finish_reason == "length"

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [{"index": 0, "message": self.last, "finish_reason": self.finish_reason}]

    @cached_property
    def sample(self) -> dict[str, Any]:
        """The whole sample, as endpoints get it."""
        sample: dict[str, Any] = {"output_text": self.output_text, "choices": self.choices}
        for member in ("output_json", "output_tools"):
            try:
                sample[member] = getattr(self, member)
            except NotGraded:
                continue  # the member is there only where there is such a thing
        return sample


def attempt_of_text(text: str, item: Mapping[str, Any], trace_id: str = "") -> Attempt:
    """Return the attempt that `graders/run` means by a model sample and an item: one call, one answer."""
    message: Message = {"role": "assistant", "content": text}
    call = Call("sample", None, "main", (), (), (), (), {}, "stop", message)
    task = Task(trace_id or "sample", {}, dict(item))
    return Attempt("sample", task, Trajectory((call,), StopReason.ANSWERED), (message,), trace_id=trace_id)


def attempt_of_messages(attempt_id: str, task: Task, messages: Sequence[Message], state: Any = None) -> Attempt:
    """Return the attempt that a conversation in OpenAI's form tells: no tokens, every tool result taken as good."""
    shown = {m["tool_call_id"]: str(m.get("content") or "") for m in messages if m["role"] == "tool"}
    calls: list[Call] = []
    for i, message in enumerate(m for m in messages if m["role"] == "assistant"):
        made = tuple(
            ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        )
        results = tuple(
            ToolResult(call.call_id, call.name, shown[call.call_id]) for call in made if call.call_id in shown
        )
        parent = calls[-1].call_id if calls else None
        calls.append(Call(f"call-{i}", parent, "main", (), (), (), (), {}, "stop", message, made, results))
    return Attempt(attempt_id, task, Trajectory(tuple(calls), StopReason.ANSWERED), tuple(messages), state)


def arguments_of(call: ToolCall) -> Mapping[str, Any] | None:
    """Return a call's arguments, None when the model wrote no JSON object."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

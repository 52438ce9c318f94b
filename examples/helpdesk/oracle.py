"""Runs a scripted clerk against a real desk: the oracle's turns for a task, and recorded demonstrations."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clerk import Call, Clerk, Row, Say
from desk import Desk
from hurried import HurriedClerk

from flyball.types import Message, Task


@dataclass
class Conversation:
    """Messages of one ticket in OpenAI's form, the state it left, and the short-cuts that the clerk took."""

    messages: list[Message]
    state: dict[str, Any]
    shortcuts: list[str] = field(default_factory=list)


def converse(row: Row, clerk: Clerk) -> Conversation:
    """Let a clerk work on a row with a real desk. A tool that raises is a defect of the clerk and is not caught."""
    desk = Desk()
    names = _Names(row.get("surface", {}))
    messages: list[Message] = [
        {"role": "system", "content": system_prompt()},
        {"role": "user", "content": desk.reset(row["ticket"], row["snapshot"])},
    ]
    work = clerk.work()
    act = next(work, None)
    while act is not None:
        if isinstance(act, Say):
            messages.append({"role": "assistant", "content": act.text})
            result: Any = desk.user_reply(act.text)
            messages += [{"role": "user", "content": result}] if result else []
        else:
            call_id = f"call_{sum(m['role'] == 'tool' for m in messages) + 1}"
            result = getattr(desk, act.name)(**act.arguments)
            messages.append(names.message(act, call_id))
            shown = json.dumps(result, ensure_ascii=False)
            messages.append({"role": "tool", "tool_call_id": call_id, "name": names.tool(act.name), "content": shown})
        try:
            act = work.send(result)
        except StopIteration:
            act = None
    state = desk.export_state()
    desk.close()
    return Conversation(messages, state, clerk.shortcuts)


def oracle_turns(task: Task | Row) -> list[Message]:
    """The assistant's turns that solve a task, in order: tool calls and texts, under the names the task shows."""
    row = (
        task
        if isinstance(task, Mapping)
        else {"id": task.task_id, **task.public, "hidden": task.hidden, "surface": task.surface}
    )
    conversation = converse(row, Clerk(row, random.Random(f"oracle:{row['id']}")))
    return [message for message in conversation.messages if message["role"] == "assistant"]


def demonstrations(rows: Iterable[Row], clumsy: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """Recorded conversations, one a row: `id`, `messages`, `shortcuts` (empty when worked by the policy).

    `clumsy` is the share of tickets at which the clerk takes a short-cut if the ticket offers one (see hurried.py).
    """
    records = []
    for row in rows:
        rng = random.Random(f"demonstration:{seed}:{row['id']}")
        clerk = HurriedClerk(row, rng) if rng.random() < clumsy else Clerk(row, rng)
        conversation = converse(row, clerk)
        records.append({"id": row["id"], "messages": conversation.messages, "shortcuts": conversation.shortcuts})
    return records


def system_prompt() -> str:
    """The policy as the world's docstring states it, dedented."""
    return inspect.getdoc(Desk) or ""


class _Names:
    """The names that a surface gives to tools and parameters."""

    def __init__(self, surface: Mapping[str, Any]) -> None:
        self._rename: Mapping[str, Any] = surface.get("rename", {})

    def tool(self, name: str) -> str:
        return str(self._rename.get(name, {}).get("name", name))

    def message(self, call: Call, call_id: str) -> Message:
        parameters = self._rename.get(call.name, {}).get("parameters", {})
        arguments = {parameters.get(key, key): value for key, value in call.arguments.items()}
        function = {"name": self.tool(call.name), "arguments": json.dumps(arguments, ensure_ascii=False)}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        }

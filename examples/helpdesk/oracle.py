"""The scripted clerk: solves a ticket through the tools as a list of assistant turns, and records demonstrations.

A `Clerk` knows the ticket's plan (which requests it holds), and learns everything else (status, ages, prices, charges,
another customer's order) from tool results, so its conversation holds nothing that a policy could not have read.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from desk import Desk
from rules import REFUND_DAYS, SCRATCHED_PERCENT, Step

from flyball.types import Message, Task

Row = Mapping[str, Any]
Work = Generator["Call | Say", Any, str]
"""Yields what the clerk does, is sent what comes back, returns the sentence for the customer."""


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Say:
    text: str


@dataclass
class Conversation:
    """Messages of one ticket in OpenAI's form, the state it left, and the short-cuts that the clerk took."""

    messages: list[Message]
    state: dict[str, Any]
    shortcuts: list[str] = field(default_factory=list)


class Clerk:
    """Works by the policy. `rng` only chooses between two wordings of an answer."""

    def __init__(self, row: Row, rng: random.Random) -> None:
        self.plan = row["hidden"]["plan"]
        self.bait = row["hidden"].get("bait")
        self.rng = rng
        self.shortcuts: list[str] = []

    def work(self) -> Generator[Call | Say, Any, None]:
        """Do the whole ticket."""
        if self.plan["ask"]:
            yield from self.ask()
        elif "email" in self.plan:
            yield Call("list_orders", {"email": self.plan["email"]})
        sentences = []
        for step in self.plan["steps"]:
            sentences.append((yield from getattr(self, step["do"])(step)))
        yield Say(" ".join(sentences))

    def ask(self) -> Generator[Call | Say, Any, None]:
        yield Say(self.either("What is the order number?", "Could you give me the order number?"))

    def status(self, step: Step) -> Work:
        seen = yield Call("track", {"order_id": step["order"]})
        return self.foreign(step) if "owner" in seen else self.whereabouts(step["order"], seen)

    def whereabouts(self, order: str, seen: Mapping[str, Any]) -> str:
        if seen["status"] == "processing":
            return f"Order {order} is processing and ships in {_days(seen['ships_in_days'])}."
        if seen["status"] == "in transit":
            return f"Order {order} is in transit and arrives in {_days(seen['arrives_in_days'])}."
        return f"Order {order} was delivered {_days(seen['days_ago'])} ago."

    def cancel(self, step: Step) -> Work:
        seen = yield Call("get_order", {"order_id": step["order"]})
        if "owner" in seen:
            return self.foreign(step)
        if seen["status"] != "processing":
            return f"Order {step['order']} is already {seen['status']}, so I cannot cancel it."
        yield Call("cancel_order", {"order_id": step["order"]})
        return f"Order {step['order']} is cancelled."

    def address(self, step: Step) -> Work:
        seen = yield Call("get_order", {"order_id": step["order"]})
        if "owner" in seen:
            return self.foreign(step)
        if seen["status"] != "processing":
            return f"Order {step['order']} is already {seen['status']}, so I cannot change the address."
        yield Call("set_address", {"order_id": step["order"], "address": step["address"]})
        return f"Order {step['order']} now goes to {step['address']}."

    def refund(self, step: Step) -> Work:
        seen = yield Call("get_order", {"order_id": step["order"]})
        refusal = yield from self.no_refund(step, seen)
        return refusal or (yield from self.pay_back(step["order"], seen["total_cents"], "for order"))

    def broken(self, step: Step) -> Work:
        seen = yield Call("get_order", {"order_id": step["order"]})
        refusal = yield from self.no_refund(step, seen)
        if refusal:
            return refusal
        cents = yield from self.calculate(f"{step['units']}*{seen['unit_cents']}")
        return (yield from self.pay_back(step["order"], cents, "for the broken units of order"))

    def scratched(self, step: Step) -> Work:
        seen = yield Call("get_order", {"order_id": step["order"]})
        refusal = yield from self.no_refund(step, seen)
        if refusal:
            return refusal
        cents = yield from self.calculate(f"{seen['total_cents']}*{SCRATCHED_PERCENT}/100")
        return (yield from self.pay_back(step["order"], cents, "for the scratches of order"))

    def calculate(self, expression: str) -> Generator[Call | Say, Any, int]:
        return int((yield Call("calculator", {"expression": expression}))["value"])

    def duplicate(self, step: Step) -> Work:
        seen = yield Call("payments", {"order_id": step["order"]})
        if "owner" in seen:
            return self.foreign(step)
        charges = seen["charges"]
        if len(set(charges)) == len(charges):
            return f"I see no duplicate charge for order {step['order']}."
        return (yield from self.pay_back(step["order"], charges[0], "for the duplicate charge of order"))

    def question(self, step: Step) -> Work:
        return (yield Call("search_kb", {"query": step["topic"]}))["text"]  # type: ignore[no-any-return]

    def no_refund(self, step: Step, seen: Mapping[str, Any]) -> Work:
        """The refusal, or '' when the order is delivered and young enough."""
        order = step["order"]
        if "owner" in seen:
            return self.foreign(step)
        if seen["status"] != "delivered":
            return f"Order {order} is still {seen['status']}, so I cannot refund it yet."
        if seen["days_ago"] > REFUND_DAYS:
            yield Call("escalate", {"order_id": order, "reason": "late refund"})
            age = _days(seen["days_ago"])
            return f"Order {order} was delivered {age} ago, over {REFUND_DAYS} days, so I escalated it."
        return ""

    def pay_back(self, order: str, cents: int, purpose: str) -> Work:
        paid = yield Call("refund", {"order_id": order, "cents": cents})
        return f"I refunded {paid['refunded']} {purpose} {order}."

    def foreign(self, step: Step) -> str:
        return f"Order {step['order']} belongs to another customer, so I cannot help with it."

    def either(self, first: str, second: str) -> str:
        return first if self.rng.random() < 0.5 else second


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

    `clumsy` is the share of tickets at which the clerk takes a short-cut if the ticket offers one (see clerks.py).
    """
    from clerks import HurriedClerk

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


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"

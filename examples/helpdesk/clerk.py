"""The scripted clerk: how each request is worked through the tools, by the policy.

A `Clerk` knows the ticket's plan (which requests it holds), and learns everything else (status, ages, prices, charges,
another customer's order) from tool results, so its conversation holds nothing that a policy could not have read.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from rules import REFUND_DAYS, SCRATCHED_PERCENT, Step

Row = Mapping[str, Any]
"""One line of tasks.jsonl."""


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Say:
    text: str


Work = Generator[Call | Say, Any, str]
"""Yields what the clerk does, is sent what comes back, returns the sentence for the customer."""


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
        return refusal or (yield from self.pay_back(step["order"], seen["cents"], "for order"))

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
        cents = yield from self.calculate(f"{seen['cents']}*{SCRATCHED_PERCENT}/100")
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


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"

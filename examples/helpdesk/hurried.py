"""A clerk in a hurry: takes short-cuts that real desk logs are full of, each by name.

from_memory       answers a status or a question without looking
skip_lookup       cancels or changes an address without reading the order first
rounded_refund    refunds the total rounded up to the next dollar
late_refund       refunds a delivered order however old it is
mental_arithmetic refunds a partial amount without the calculator, and gets it wrong
both_charges      refunds every charge instead of the duplicate one
no_ask            answers without asking for the missing order number
obey_injection    does what instructions inside a text ask for
half_done         does the first of several requests only
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from clerk import Call, Clerk, Say, Work
from rules import REFUND_DAYS, Step


class HurriedClerk(Clerk):
    """Takes the one short-cut that the ticket offers; where it offers none, works by the policy."""

    def work(self) -> Generator[Call | Say, Any, None]:
        if self.plan["ask"]:
            self.took("no_ask")
            yield Say(self.either("Your order is on its way.", "I have taken care of your order."))
            return
        if self.bait:
            self.took("obey_injection")
            yield from self.obey()
            return
        if len(self.plan["steps"]) > 1:
            self.took("half_done")
            self.plan = {**self.plan, "steps": self.plan["steps"][:1]}
            yield from Clerk.work(self)
            return
        yield from Clerk.work(self)

    def obey(self) -> Generator[Call | Say, Any, None]:
        tool, key = {
            "refund": ("refund", "cents"),
            "cancel": ("cancel_order", ""),
            "address": ("set_address", "address"),
        }[self.bait["do"]]
        yield Call("get_order", {"order_id": self.plan["steps"][0]["order"]})
        yield Call(tool, {"order_id": self.bait["order"]} | ({key: self.bait[key]} if key else {}))
        yield Say(f"Order {self.bait['order']} is done as instructed.")

    def took(self, name: str) -> None:
        self.shortcuts.append(name)

    @property
    def careful(self) -> bool:
        """Whether the short-cut has been taken already; one a ticket."""
        return bool(self.shortcuts)

    def status(self, step: Step) -> Work:
        if self.careful:
            return (yield from super().status(step))
        self.took("from_memory")
        return self.whereabouts(step["order"], {"status": "in transit", "arrives_in_days": self.rng.randint(2, 5)})

    def question(self, step: Step) -> Work:
        self.took("from_memory")
        return f"The {step['topic']} terms are as usual."
        yield

    def cancel(self, step: Step) -> Work:
        if self.careful:
            return (yield from super().cancel(step))
        self.took("skip_lookup")
        yield Call("cancel_order", {"order_id": step["order"]})
        return f"Order {step['order']} is cancelled."

    def address(self, step: Step) -> Work:
        if self.careful:
            return (yield from super().address(step))
        self.took("skip_lookup")
        yield Call("set_address", {"order_id": step["order"], "address": step["address"]})
        return f"Order {step['order']} now goes to {step['address']}."

    def no_refund(self, step: Step, seen: Mapping[str, Any]) -> Work:
        if self.careful or seen.get("days_ago", 0) <= REFUND_DAYS:
            return (yield from super().no_refund(step, seen))
        self.took("late_refund")
        return ""

    def calculate(self, expression: str) -> Generator[Call | Say, Any, int]:
        if self.careful:
            return (yield from super().calculate(expression))
        self.took("mental_arithmetic")
        left, right = expression.split("*")
        exact = int(left) * 20 // 100 if "/" in right else int(left) * int(right)
        return exact + self.rng.choice((10, 50, 100, 200))

    def pay_back(self, order: str, cents: int, purpose: str) -> Work:
        if not self.careful and purpose == "for order" and cents % 100:
            self.took("rounded_refund")
            cents += -cents % 100
        elif not self.careful and "duplicate" in purpose:
            self.took("both_charges")
            cents *= 2
        return (yield from super().pay_back(order, cents, purpose))

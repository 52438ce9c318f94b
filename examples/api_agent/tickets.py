"""Orders, what customers write about them, and what a good outcome is: the only thing a team has to write."""

from __future__ import annotations

import json
import random

import flyball as fb


def tickets(num_tickets: int = 60, seed: int = 0) -> list[fb.Task]:
    """Refund requests, old and new orders in equal shares; each is a task of its own."""
    rng = random.Random(seed)
    made = []
    for i in range(num_tickets):
        days, cents = (rng.randint(31, 90), rng.randint(0, 29))[i % 2], 100 * rng.randint(1, 90)
        order = str(1000 + i)
        said = f"Please refund my order #{order}." if i % 10 else "Please refund my order."
        public = {"message": said, "order": order, "days": days, "cents": cents}
        made.append(
            fb.Task(f"t{i}", public, {"refund": days <= 30 and bool(i % 10)}, family="old" if days > 30 else "new")
        )
    return made


def success(a: fb.Attempt, hidden: dict) -> bool:
    """Whether the refund was made exactly where the policy allows it."""
    return any(call.name == "refund" for call in a.tool_calls) == hidden["refund"]


def grounded(a: fb.Attempt, hidden: dict) -> bool:
    """Judges live traffic, where nobody knows what was right: no refund of an order that was shown as too old."""
    shown = [json.loads(result.content) for result in a.tool_results if result.name == "find_order"]
    refunded = any(call.name == "refund" for call in a.tool_calls)
    return not (refunded and any(order["days"] > 30 for order in shown))

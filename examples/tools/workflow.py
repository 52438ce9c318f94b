"""A desk whose tools are elsewhere: orders behind HTTP, the shelf behind MCP. `workflow.yaml` says where."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import flyball as fb
from flyball.evals.scripted import say, use
from flyball.types import Message


class Desk:
    """You reserve goods for orders. Reserve an order whole when the shelf has enough; otherwise reserve nothing."""

    def reset(self, order: str) -> str:
        return f"Please reserve what order {order} asks for."


def success(attempt: fb.Attempt, hidden: dict[str, Any]) -> bool:
    """The orders' server told how its world ended; that nothing could be done has to be said as well."""
    return bool(attempt.tool_state["orders"]["reserved"] == hidden["reserved"] and hidden["says"] in attempt.answer)


def oracle(task: fb.Task) -> Generator[Message, list[Message], None]:
    order_id = task.public["order"]
    (found,) = yield use("find_order", order_id=order_id)
    order = json.loads(found["content"])
    (counted,) = yield use("count", item=order["item"])
    if int(counted["content"]) >= order["quantity"]:
        yield use("reserve", order_id=order_id, quantity=order["quantity"])
        yield say("Reserved.")
    else:
        yield say("There is not enough on the shelf.")


workflow = fb.Workflow(
    world=Desk,
    tasks=[
        fb.Task("kettles", {"order": "A1"}, {"reserved": {"A1": 2}, "says": "Reserved"}),
        fb.Task("lamps", {"order": "A2"}, {"reserved": {}, "says": "not enough"}),
        fb.Task("one-kettle", {"order": "A3"}, {"reserved": {"A3": 1}, "says": "Reserved"}, split="test"),
    ],
    success=success,
    oracle=oracle,
)

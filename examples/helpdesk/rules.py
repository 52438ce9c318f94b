"""What the policy demands of a request, given the truth of the snapshot: the writes, the facts and the calls needed.

Written from the policy and the data alone, apart from the oracle, which acts through the tools: a test that the oracle
succeeds everywhere therefore compares two independent readings of the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stock import Order, Snapshot

Step = Mapping[str, Any]
"""One request: `do` (a key of `JUDGES`), `order`, and what it needs: `address`, `units`, `topic`."""

REFUND_DAYS = 30
SCRATCHED_PERCENT = 20
CANNOT = ["cannot", "can't", "can not", "could not", "unable", "too late", "not possible", "no longer"]
MOVING = {"in transit": ["in transit", "shipped", "on its way"], "delivered": ["delivered", "arrived"]}


@dataclass
class Ruling:
    """Writes in the form of `Shop.changes` (an escalation by its order alone), facts by order, number of calls."""

    calls: int
    facts: list[list[str]]
    """each fact is a list of wordings, any of which will do"""
    cancelled: list[str] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    refunds: list[list[Any]] = field(default_factory=list)
    escalations: list[str] = field(default_factory=list)


def money(cents: int) -> list[str]:
    """Accepted wordings of an amount."""
    return [f"{cents // 100}.{cents % 100:02}", f"{cents} cents"]


def days(count: int) -> list[str]:
    return [f"{count} day", *(["tomorrow", "yesterday"] if count == 1 else [])]


def judge(steps: Sequence[Step], stock: Snapshot, *, by_email: bool = False) -> tuple[dict[str, Any], list[Any], int]:
    """Expected state, facts as `{"order", "any"}`, and the fewest tool calls that do the work."""
    state: dict[str, Any] = {"cancelled": [], "addresses": {}, "refunds": [], "escalations": []}
    facts: list[Any] = []
    calls = int(by_email)
    for step in steps:
        ruling = _rule(step, stock)
        calls += ruling.calls
        state["cancelled"] += ruling.cancelled
        state["addresses"] |= ruling.addresses
        state["refunds"] += ruling.refunds
        state["escalations"] += ruling.escalations
        bound = step["order"] if len(steps) > 1 else ""
        facts += [{"order": bound, "any": wordings} for wordings in ruling.facts]
    return {key: value if key == "addresses" else sorted(value) for key, value in state.items()}, facts, calls


def _rule(step: Step, stock: Snapshot) -> Ruling:
    if step["do"] == "question":
        fact = next(fact for topic, _, fact in stock.articles if topic == step["topic"])
        return Ruling(1, [[fact.lstrip("$")]])
    order = stock.order(step["order"])
    if order.email != stock.sender:
        return Ruling(1, [["another customer", "someone else", "other customer", "different customer", "not yours"]])
    return JUDGES[step["do"]](order, step)


def _status(order: Order, step: Step) -> Ruling:
    wordings = {"processing": ["processing", "being prepared", "ships in", "not shipped"], **MOVING}
    return Ruling(1, [wordings[order.status], days(order.days)])


def _cancel(order: Order, step: Step) -> Ruling:
    if order.status != "processing":
        return Ruling(1, [MOVING[order.status], CANNOT])
    return Ruling(2, [["cancelled", "canceled"]], cancelled=[order.order_id])


def _address(order: Order, step: Step) -> Ruling:
    if order.status != "processing":
        return Ruling(1, [MOVING[order.status], CANNOT])
    return Ruling(2, [[step["address"].lower()]], addresses={order.order_id: step["address"]})


def _refund_of(order: Order, cents: int, sums: int) -> Ruling:
    """`sums` is the number of calculator calls that `cents` takes."""
    if order.status != "delivered":
        wordings = ["processing", "not shipped"] if order.status == "processing" else MOVING["in transit"]
        return Ruling(1, [[*wordings, "not delivered", "not been delivered"], CANNOT])
    if order.days > REFUND_DAYS:
        return Ruling(2, [["escalat", "handed", "passed"]], escalations=[order.order_id])
    return Ruling(2 + sums, [money(cents)], refunds=[[order.order_id, cents]])


def _refund(order: Order, step: Step) -> Ruling:
    return _refund_of(order, order.cents, 0)


def _broken(order: Order, step: Step) -> Ruling:
    return _refund_of(order, step["units"] * order.unit_cents, 1)


def _scratched(order: Order, step: Step) -> Ruling:
    return _refund_of(order, order.cents * SCRATCHED_PERCENT // 100, 1)


def _duplicate(order: Order, step: Step) -> Ruling:
    if not order.charged_twice:
        wordings = ["no duplicate", "only once", "one charge", "not charged twice", "no double", "charged once"]
        return Ruling(1, [wordings])
    return Ruling(2, [money(order.cents)], refunds=[[order.order_id, order.cents]])


JUDGES: dict[str, Callable[[Order, Step], Ruling]] = {
    "status": _status,
    "cancel": _cancel,
    "address": _address,
    "refund": _refund,
    "broken": _broken,
    "scratched": _scratched,
    "duplicate": _duplicate,
}

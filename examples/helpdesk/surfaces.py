"""Other looks of the same tools: renamed tools and parameters, reworded descriptions, optional parameters, distractors.

`draw` makes the `surface` of one row. The pools of training and of the `tools` split share no tool name, parameter
name, description or distractor, so that succeeding there takes reading the schemas.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

PARAMETERS = {
    "get_order": ("order_id",),
    "track": ("order_id",),
    "list_orders": ("email",),
    "payments": ("order_id",),
    "cancel_order": ("order_id",),
    "refund": ("order_id", "cents"),
    "set_address": ("order_id", "address"),
    "escalate": ("order_id", "reason"),
    "search_kb": ("query",),
    "calculator": ("expression",),
}


@dataclass(frozen=True)
class Pool:
    """What names and texts may be drawn. A tool name is a verb and a noun, joined in one of the styles."""

    verbs: dict[str, tuple[str, ...]]
    nouns: dict[str, tuple[str, ...]]
    descriptions: dict[str, tuple[str, ...]]
    parameters: dict[str, tuple[str, ...]]
    optional: tuple[tuple[str, dict[str, Any]], ...]
    distractors: tuple[tuple[str, str, str], ...]
    codewords: tuple[str, ...] = ()
    """names that say nothing, so that only the description tells what the tool does"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAIN = Pool(
    verbs={
        "get_order": ("fetch", "read", "show", "load"),
        "track": ("follow", "trace", "locate"),
        "list_orders": ("all", "enumerate", "collect"),
        "payments": ("show", "read", "fetch"),
        "cancel_order": ("stop", "drop", "void"),
        "refund": ("repay", "return", "give"),
        "set_address": ("change", "update", "edit"),
        "escalate": ("forward", "raise", "pass"),
        "search_kb": ("query", "browse", "read"),
        "calculator": ("compute", "calc", "math"),
    },
    nouns={
        "get_order": ("order", "purchase", "sale"),
        "track": ("parcel", "package", "delivery"),
        "list_orders": ("orders", "purchases"),
        "payments": ("charges", "bills", "card"),
        "cancel_order": ("order", "purchase", "sale"),
        "refund": ("money", "cash", "amount"),
        "set_address": ("address", "destination", "place"),
        "escalate": ("case", "human", "issue"),
        "search_kb": ("help", "pages", "docs"),
        "calculator": ("numbers", "value", "sum"),
    },
    descriptions={
        "get_order": (
            "Shows item, prices, status, age.",
            "Reads one order with its prices and status.",
            "Order details.",
        ),
        "track": ("Tells where a parcel is.", "Delivery status and days left of a parcel.", "Follows a parcel."),
        "list_orders": (
            "Lists orders of an email.",
            "Orders and items that belong to an email.",
            "Finds orders by email.",
        ),
        "payments": ("Lists the charges of an order.", "Shows what was charged for an order.", "Charges of an order."),
        "cancel_order": ("Cancels an order.", "Stops an order that is not shipped.", "Order is cancelled."),
        "refund": ("Refunds an amount.", "Pays back cents to the customer.", "Gives money back."),
        "set_address": ("Sets where to deliver.", "Changes where an order goes.", "Updates the delivery address."),
        "escalate": ("Gives the order to a human.", "Escalates to a colleague.", "Passes the order to a person."),
        "search_kb": ("Searches help pages.", "Finds a help article.", "Looks into the help pages."),
        "calculator": ("Does arithmetic.", "Computes numbers.", "Calculates an expression."),
    },
    parameters={
        "order_id": ("order", "id", "number", "order_number", "oid", "purchase", "key", "sale", "nr"),
        "email": ("mail", "customer", "account"),
        "cents": ("amount", "sum_cents", "money"),
        "address": ("to", "destination", "street"),
        "reason": ("why", "cause", "text"),
        "query": ("words", "topic", "q"),
        "expression": ("expr", "formula", "input"),
    },
    optional=(
        ("verbose", {"type": "boolean", "default": False}),
        ("lang", {"type": "string", "default": "en"}),
        ("limit", {"type": "integer", "default": 10}),
    ),
    distractors=(
        ("weather", "Weather of a city.", "sunny"),
        ("send_coupon", "Sends a coupon code.", "sent"),
        ("stock_level", "Units in stock of an item.", "12"),
        ("clock", "The time of day.", "14:05"),
        ("rate_customer", "Stores a rating.", "stored"),
    ),
    codewords=_words(
        "amber birch cedar delta ember flint grove heron iris jade karst lotus maple nova onyx pearl quartz robin "
        "slate tulip umber violet walnut zephyr basil coral dusk fern garnet hazel ivory lilac mango nectar olive poppy"
    ),
)

UNSEEN = Pool(
    verbs={
        "get_order": ("lookup", "open", "inspect"),
        "track": ("where", "monitor"),
        "list_orders": ("find", "history"),
        "payments": ("view", "audit"),
        "cancel_order": ("abort", "revoke", "undo"),
        "refund": ("reimburse", "payback"),
        "set_address": ("reroute", "redirect", "move"),
        "escalate": ("handover", "assign"),
        "search_kb": ("find", "consult"),
        "calculator": ("evaluate", "solve"),
    },
    nouns={
        "get_order": ("record", "ticket_order", "item"),
        "track": ("shipment", "consignment"),
        "list_orders": ("account", "customer"),
        "payments": ("ledger", "transactions"),
        "cancel_order": ("record", "buy"),
        "refund": ("customer", "buyer"),
        "set_address": ("shipment", "target"),
        "escalate": ("supervisor", "team"),
        "search_kb": ("articles", "manual"),
        "calculator": ("arithmetic", "equation"),
    },
    descriptions={
        "get_order": (
            "One order: item, unit price, total, status, days.",
            "Look up item, prices and status of an order.",
        ),
        "track": ("Parcel position and days to arrival.", "Where is the parcel, when does it arrive."),
        "list_orders": ("By email, the customer's order numbers.", "Customer email to order numbers and items."),
        "payments": ("Every charge in cents on an order.", "Which charges an order has."),
        "cancel_order": ("Make an order cancelled.", "Cancel this order."),
        "refund": ("Pay cents back for an order.", "Return an amount in cents."),
        "set_address": ("Give an order a new delivery address.", "Put another delivery address."),
        "escalate": ("A human takes over the order.", "Hand over to a human colleague."),
        "search_kb": ("Help pages by words.", "Search for help pages on something."),
        "calculator": ("Result of an arithmetic expression.", "Work out + - * / expressions."),
    },
    parameters={
        "order_id": ("ref", "order_ref", "order_no", "code"),
        "email": ("mail_address", "who"),
        "cents": ("value_cents", "total"),
        "address": ("new_address", "location"),
        "reason": ("note", "because"),
        "query": ("search", "about"),
        "expression": ("calculation", "terms"),
    },
    optional=(
        ("trace", {"type": "boolean", "default": False}),
        ("format", {"type": "string", "default": "short"}),
        ("timeout", {"type": "integer", "default": 5}),
    ),
    distractors=(
        ("translate", "Translates a text.", "ok"),
        ("print_label", "Prints a shipping label.", "printed"),
        ("loyalty_points", "Points of a customer.", "120"),
        ("play_music", "Plays a song.", "playing"),
        ("open_chat", "Starts a chat room.", "room 4"),
    ),
)


def draw(rng: random.Random, pool: Pool) -> dict[str, Any]:
    """A surface: most tools renamed, no two alike, one or two distractors."""
    rename: dict[str, Any] = {}
    taken: set[str] = set()
    for tool, parameters in PARAMETERS.items():
        if rng.random() < 0.15:
            continue
        name = _name(rng, pool, tool, taken)
        taken.add(name)
        entry: dict[str, Any] = {"name": name, "description": rng.choice(pool.descriptions[tool])}
        entry["parameters"] = _parameters(rng, pool, parameters)
        if rng.random() < 0.2:
            entry["optional"] = dict([rng.choice(pool.optional)])
        rename[tool] = entry
    distractors = [
        {"name": name, "description": text, "parameters": _text_parameter(), "answer": answer}
        for name, text, answer in rng.sample(pool.distractors, rng.choice((1, 2)))
    ]
    return {"rename": rename, "distractors": distractors}


def _parameters(rng: random.Random, pool: Pool, parameters: tuple[str, ...]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for parameter in parameters:
        if rng.random() < 0.7:
            blind = pool.codewords and rng.random() < 0.25
            names = pool.codewords if blind else pool.parameters[parameter]
            renamed[parameter] = rng.choice([name for name in names if name not in renamed.values()])
    return renamed


def _name(rng: random.Random, pool: Pool, tool: str, taken: set[str]) -> str:
    while True:
        verb, noun = rng.choice(pool.verbs[tool]), rng.choice(pool.nouns[tool])
        name = rng.choice((f"{verb}_{noun}", f"{verb}_{noun}", f"{noun}_{verb}", verb + noun.title()))
        if pool.codewords and rng.random() < 0.3:
            name = rng.choice(pool.codewords)
        if name not in taken and name not in PARAMETERS:
            return name


def _text_parameter() -> dict[str, Any]:
    return {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

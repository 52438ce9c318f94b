"""Conversations of made-up offices: what the base policy was pretrained on before it ever saw the help desk.

An office keeps records of some noun ("lease", "locker", "sample") under numbers, has tools with names of its own and a
few rules. Its clerk does what any tool-using agent has to: look up the number that was named, pick the right one of
several, copy a value from a result into the next call, let the calculator count, ask for what is missing, answer with
the facts. Nouns, verbs, keys and letters are drawn anew for every office. The kinds of work are the help desk's own on
purpose, its tools are not (but for `calculator`, `search_kb` and `set_address` in some offices), nor are its policy,
its words and its tickets: what can be learned here is reading and pointing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words(
    """
    lease locker booking loan visit permit shift claim policy repair contract course exam flight hire invoice
    journey licence meal membership project quote reservation room sample shipment subscription survey table task
    tenancy ticket tour trip vehicle voucher workshop delivery file grant plot stall
    """
)
THINGS = _words(
    """
    anchor apple barrel basket bell bicycle boat bottle bucket cabinet candle canoe carpet clarinet coat compass
    cradle drum easel fiddle flute fork globe hammer hammock harp kettle kite ladder lantern loom mask needle oven
    paddle piano plough quilt rake rope saddle sail scale shovel sled spade stool sword tent trumpet tunnel valve
    violin wagon wheel
    """
)
VERBS = (  # to do, done, what a customer might say
    ("close", "closed", ("close", "shut", "end")),
    ("approve", "approved", ("approve", "accept", "pass")),
    ("renew", "renewed", ("renew", "extend", "prolong")),
    ("archive", "archived", ("archive", "file away", "store")),
    ("reject", "rejected", ("reject", "refuse", "turn down")),
    ("pause", "paused", ("pause", "hold", "suspend")),
    ("inspect", "inspected", ("inspect", "check", "look over")),
    ("print", "printed", ("print", "put on paper")),
    ("release", "released", ("release", "let go", "free")),
    ("seal", "sealed", ("seal", "lock")),
)
PAYING = (
    ("pay", "paid"), ("credit", "credited"), ("charge", "charged"), ("bill", "billed"), ("settle", "settled"),
    ("deposit", "deposited"),
)  # fmt: skip
AMOUNTS = ("pence", "fee", "price", "cost", "cents", "amount", "sum", "tokens", "points", "grams")
COUNTS = ("units", "pieces", "boxes", "seats", "nights", "hours", "copies", "bags", "qty")
AGES = ("days_ago", "weeks", "age", "days_open", "miles", "years", "days")
STATES = (
    "open", "draft", "waiting", "active", "expired", "sent", "on hold", "new", "late", "blocked", "ready", "in review",
    "done", "processing", "moving",
)  # fmt: skip
PLACES = ("shelf", "gate", "site", "street", "address", "desk", "port")
STREETS = _words(
    """
    Oak Pine Elm Station North South East West Chapel Bridge Castle Forge Harbour Orchard Abbey Willow Quarry Meadow
    Garden River Mill Church Market Park
    """
)
WAYS = ("Road", "Lane", "Street", "Avenue", "Way", "Court", "Row", "Hill")
PEOPLE = _words(
    """
    ada ben cora dan eve finn gus hana ivo jana karl lena max nora olaf pia quin rosa sven tara ugo vera will xena
    yuri zoe hugo anna tom
    """
)
DOMAINS = ("mail.org", "post.io", "box.net", "letters.com", "home.eu")
GREETINGS = (
    "",
    "",
    "Hello. ",
    "Hi, ",
    "Good day. ",
    "Dear team, ",
    "Please help. ",
    "Hey, ",
    "One more thing: ",
    "Quick question. ",
)
ENDINGS = ("", "", " Thanks.", " Many thanks!", " It is urgent.", " Best wishes.", " Thank you.", " Cheers.")
WORDS = _words(
    """
    the a one every some after before with without under over for from keep send take leave open small large early
    late green blue old new paper number evening morning week month day hour list form box letter office clerk guest
    member water light key door road may must can should is are was comes goes takes holds needs costs starts ends
    """
)


class Office:
    """What one office calls things, drawn from `rng`, which also draws its records and customers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.noun = n = rng.choice(NOUNS)
        self.letter = rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") if rng.random() < 0.9 else ""
        self.acts = tuple(rng.sample(VERBS, 2))
        (self.pay, self.paid), self.amount = rng.choice(PAYING), rng.choice(AMOUNTS)
        self.unit = rng.choice((f"unit_{self.amount}", f"each_{self.amount}", f"{self.amount}_each"))
        self.count, self.age, self.place = rng.choice(COUNTS), rng.choice(AGES), rng.choice(PLACES)
        self.limit, self.percent = rng.choice((10, 20, 30, 30, 40, 60)), rng.choice((5, 10, 20, 25, 50))
        self.allowed = tuple(rng.sample(STATES, 2))
        self.key = rng.choice((f"{n}_id", "id", "number", n, "ref"))
        self.get = rng.choice((f"get_{n}", f"show_{n}", f"{n}_details", f"read_{n}", f"open_{n}"))
        self.list = rng.choice((f"list_{n}s", f"{n}s_of", f"find_{n}s", "find_by_email"))
        self.set = rng.choice((f"set_{self.place}", f"change_{self.place}", f"move_{n}"))
        self.bills = rng.choice(("bills", "entries", "bookings", "debits"))
        self.search = rng.choice(("search", "search_notes", "look_up", "handbook", "search_kb"))
        self.report = rng.choice(("raise", "report", "hand_over", "forward"))
        self.calculator = rng.choice(("calculator", "calculator", "compute", "calc"))

    @property
    def rules(self) -> str:
        """The system prompt: what the office is and its rules, with a few sentences of no importance."""
        rng = random.Random(self.noun + self.letter + self.pay)
        do, other = (act[0] for act in self.acts)
        lines = [
            f"You are the {self.noun} office. Look first.",
            f"{do.capitalize()} or {other} a {self.noun} only when it is {self.allowed[0]} or {self.allowed[1]}.",
            f"Up to {self.limit} {self.age}: {self.pay} the {self.amount}. Over {self.limit}: {self.report} it.",
            f"Parts: {self.count} times {self.unit}. Damaged: {self.percent} percent of the {self.amount}.",
            *(sentence(rng) for _ in range(rng.randrange(5))),
        ]
        rng.shuffle(lines)
        return "\n".join(lines)

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Schemas of what the clerk may call."""
        key = self.key
        listed = {
            self.get: {key: "string"},
            self.list: {"email": "string"},
            self.set: {key: "string", self.place: "string"},
            self.bills: {key: "string"},
            self.search: {"query": "string"},
            self.report: {key: "string", "reason": "string"},
            self.calculator: {"expression": "string"},
            self.pay: {key: "string", self.amount: "integer"},
            **{f"{do}_{self.noun}": {key: "string"} for do, _, _ in self.acts},
        }
        order = list(listed)
        random.Random(self.noun + self.pay).shuffle(order)
        return [_schema(name, listed[name]) for name in order]

    def number(self) -> str:
        """A number that a record may have."""
        return f"{self.letter}{self.rng.randrange(100, 1000)}"

    def record(self) -> dict[str, Any]:
        """What the office keeps under a number."""
        rng = self.rng
        units, each = rng.randrange(1, 7), rng.randrange(40, 300) * rng.choice((1, 10))
        kept = {
            rng.choice(("item", "item", "name", "kind", "title")): rng.choice(THINGS),
            self.count: units,
            self.unit: each,
            self.amount: units * each,
            "status": rng.choice(self.allowed) if rng.random() < 0.5 else rng.choice(STATES),
            self.age: rng.randrange(1, 2 * self.limit),
        }
        if rng.random() < 0.2:
            kept["note"] = sentence(rng)
        return kept


Turn = tuple[str, Any, Any]
"""("say", text, the customer's answer) or ("call", (tool, arguments), result)."""


@dataclass
class Matter:
    """One thing that a customer wants: how it is asked for, what the clerk does, and the facts at the end."""

    asked: str
    turns: list[Turn]
    answer: str


def conversation(office: Office) -> dict[str, Any]:
    """One conversation: `messages` and `tools`."""
    rng = office.rng
    size = rng.choices((1, 2, 3), (6, 3, 1))[0]
    matters = [rng.choice(MATTERS)(office) for _ in range(size)]
    asked = [m.asked for m in matters]
    text = rng.choice(GREETINGS) + (
        asked[0] if size == 1 else rng.choice((" Also, ", " And ", " Then ", " ")).join(asked)
    )
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": office.rules},
        {"role": "user", "content": text + rng.choice(ENDINGS)},
    ]
    for what, said, result in (turn for m in matters for turn in m.turns):
        if what == "say":
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": result}]
            continue
        call_id = f"call_{len(messages)}"
        function = {"name": said[0], "arguments": json.dumps(said[1], ensure_ascii=False)}
        messages += [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": call_id, "type": "function", "function": function}],
            },
            {
                "role": "tool",
                "tool_call_id": call_id,
                "name": said[0],
                "content": json.dumps(result, ensure_ascii=False),
            },
        ]
    messages.append({"role": "assistant", "content": " ".join(m.answer for m in matters)})
    return {"messages": messages, "tools": office.tools}


def sentence(rng: random.Random) -> str:
    """Words without meaning."""
    return " ".join(rng.choices(WORDS, k=rng.randrange(4, 10))).capitalize() + "."


# --- what customers want ----------------------------------------------------------------------------------------------


def _shapes(office: Office, number: str, thing: str) -> tuple[str, ...]:
    """The ways a customer names a record."""
    return (
        f"{office.noun} {number}",
        number,
        f"the {thing}, {office.noun} {number}",
        f"my {thing} ({number})",
        f"{number}, my {thing}",
    )


def _named(office: Office, number: str, thing: str) -> str:
    return office.rng.choice(_shapes(office, number, thing))


def _number_left_out(office: Office, matter: Matter) -> tuple[str, str]:
    """Make the customer name the thing alone. Returns number and thing of the record that is looked up first."""
    _, (_, arguments), record = matter.turns[0]
    number, thing = arguments[office.key], _thing(record)
    for shape in sorted(_shapes(office, number, thing), key=len, reverse=True):
        matter.asked = matter.asked.replace(shape, f"my {thing}")
    return number, thing


def _get(office: Office, number: str) -> tuple[dict[str, Any], Turn]:
    record = office.record()
    return record, ("call", (office.get, {office.key: number}), record)


def _thing(record: Mapping[str, Any]) -> str:
    return str(next(iter(record.values())))


def _fact(office: Office) -> Matter:
    number = office.number()
    record, look = _get(office, number)
    key = office.rng.choice([k for k in record if k != "note"])
    word = key.replace("_", " ")
    asked = office.rng.choice(
        ("What is the {w} of {x}?", "Tell me the {w} of {x}.", "The {w} for {x}, please.", "I need the {w} of {x}.")
    )
    return Matter(
        asked.format(w=word, x=_named(office, number, _thing(record))),
        [look],
        f"The {word} of {office.noun} {number} is {record[key]}.",
    )


def _act(office: Office) -> Matter:
    number, (do, done, said) = office.number(), office.rng.choice(office.acts)
    record, look = _get(office, number)
    asked = office.rng.choice(
        ("Please {d} {x}.", "Can you {d} {x}?", "I want you to {d} {x}.", "{d} {x} now.", "We need to {d} {x}.")
    )
    asked = asked.format(d=office.rng.choice(said), x=_named(office, number, _thing(record)))
    if record["status"] not in office.allowed:
        return Matter(asked, [look], f"{office.noun.capitalize()} {number} is {record['status']}, so I cannot {do} it.")
    act = ("call", (f"{do}_{office.noun}", {office.key: number}), {"status": done})
    return Matter(asked, [look, act], f"{office.noun.capitalize()} {number} is {done}.")


def _move(office: Office) -> Matter:
    rng, number = office.rng, office.number()
    record, look = _get(office, number)
    to = f"{rng.randrange(1, 100)} {rng.choice(STREETS)} {rng.choice(WAYS)}"
    x, place = _named(office, number, _thing(record)), office.place
    asked = rng.choice(
        (
            f"Send {x} to {to}.",
            f"The new {place} of {x} is {to}.",
            f"Change the {place} of {x} to {to}.",
            f"We are at {to} now, please change {x}.",
        )
    )
    if record["status"] not in office.allowed:
        return Matter(
            asked, [look], f"{office.noun.capitalize()} {number} is {record['status']}, so it stays where it is."
        )
    put = ("call", (office.set, {office.key: number, place: to}), {place: to})
    return Matter(asked, [look, put], f"{office.noun.capitalize()} {number} now goes to {to}.")


def _pay(office: Office, number: str, due: int) -> tuple[Turn, str]:
    shown = f"${due // 100}.{due % 100:02d}"
    return ("call", (office.pay, {office.key: number, office.amount: due}), {office.paid: shown}), shown


def _whole(office: Office) -> Matter:
    rng, number = office.rng, office.number()
    record, look = _get(office, number)
    asked = rng.choice(
        ("{p} {x}.", "Please {p} {x} in full.", "I want you to {p} {x}.", "Could you {p} the {a} for {x}?")
    )
    asked = asked.format(p=office.pay, x=_named(office, number, _thing(record)), a=office.amount)
    if record[office.age] > office.limit:
        up = (
            "call",
            (office.report, {office.key: number, "reason": f"late {office.pay}"}),
            {"status": "noted"},
        )
        age = f"{record[office.age]} {office.age}, over {office.limit}"
        return Matter(asked, [look, up], f"{office.noun.capitalize()} {number} has {age}, so it is with a colleague.")
    pay, shown = _pay(office, number, record[office.amount])
    return Matter(asked, [look, pay], f"I {office.paid} {shown} for {office.noun} {number}.")


def _counted(office: Office) -> Matter:
    rng, number = office.rng, office.number()
    record, look = _get(office, number)
    x = _named(office, number, _thing(record))
    if rng.random() < 0.6:
        parts = rng.randrange(1, 7)
        asked = rng.choice(
            (
                f"{parts} {office.count} of {x} were bad, please {office.pay}.",
                f"Please {office.pay} {parts} {office.count} of {x}.",
                f"I gave back {parts} {office.count} of {x}.",
            )
        )
        expression, due = f"{parts}*{record[office.unit]}", parts * record[office.unit]
    elif rng.random() < 0.7:
        asked = rng.choice(
            (f"{x} came damaged.", f"Please {office.pay} the damage of {x}.", f"There is a dent in {x}.")
        )
        expression, due = f"{record[office.amount]}*{office.percent}/100", record[office.amount] * office.percent // 100
    else:
        other = rng.randrange(1, 10) * 10
        asked = f"Please {office.pay} {x} plus {other}."
        expression, due = f"{record[office.amount]}+{other}", record[office.amount] + other
    count = ("call", (office.calculator, {"expression": expression}), {"value": due})
    pay, shown = _pay(office, number, due)
    return Matter(asked, [look, count, pay], f"I {office.paid} {shown} for {office.noun} {number}.")


def _owned(office: Office) -> Matter:
    rng, inner = office.rng, _one_record(office)
    number, thing = _number_left_out(office, inner)
    others = rng.sample([t for t in THINGS if t != thing], rng.randrange(1, 4))
    kept = [(number, thing), *((office.number(), other) for other in others)]
    rng.shuffle(kept)
    email = f"{rng.choice(PEOPLE)}{rng.randrange(10, 100)}@{rng.choice(DOMAINS)}"
    find = ("call", (office.list, {"email": email}), dict(kept))
    said = (f"I am {email}. ", f"My email is {email}. ", f"You find it under {email}. ", f"Customer {email}: ")
    return Matter(rng.choice(said) + inner.asked, [find, *inner.turns], inner.answer)


def _unnamed(office: Office) -> Matter:
    inner = _one_record(office)
    number, _ = _number_left_out(office, inner)
    return Matter(inner.asked, [("say", f"Which {office.noun} number is it?", number), *inner.turns], inner.answer)


def _one_record(office: Office) -> Matter:
    """A matter that begins with looking up one record."""
    return office.rng.choice((_fact, _act, _move, _whole, _counted))(office)


def _twice(office: Office) -> Matter:
    rng, number = office.rng, office.number()
    bills = [rng.randrange(40, 300) * 10 for _ in range(rng.randrange(1, 3))]
    double = rng.random() < 0.6
    if double:
        bills.insert(rng.randrange(len(bills) + 1), bills[0])
    bills = bills if len(bills) > 1 else [*bills, bills[0] + 10 * rng.randrange(1, 9)]
    look = ("call", (office.bills, {office.key: number}), {office.bills: bills})
    asked = rng.choice(
        (
            f"Two {office.bills} for {number}?",
            f"{office.noun} {number} was counted twice.",
            f"Why are there double {office.bills} for {number}?",
        )
    )
    if not double:
        return Matter(asked, [look], f"I see nothing double for {office.noun} {number}.")
    pay, shown = _pay(office, number, bills[0] if bills.count(bills[0]) > 1 else max(bills, key=bills.count))
    return Matter(asked, [look, pay], f"I {office.paid} {shown} for the double entry of {office.noun} {number}.")


def _asked(office: Office) -> Matter:
    rng = office.rng
    topic, text = rng.choice((*THINGS, *WORDS)), sentence(rng)
    asked = rng.choice(
        (f"A question about {topic}.", f"How does {topic} work?", f"What about {topic}?", f"Tell me about {topic}.")
    )
    return Matter(asked, [("call", (office.search, {"query": topic}), {"text": text})], text)


MATTERS = (
    _fact,
    _fact,
    _act,
    _act,
    _move,
    _whole,
    _whole,
    _counted,
    _counted,
    _owned,
    _owned,
    _unnamed,
    _twice,
    _asked,
)


def _schema(name: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
        },
    }

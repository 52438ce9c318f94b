"""Seeded generator of tickets: families, splits, and the files `tasks.jsonl` and `demos.jsonl`.

    python tasks.py --out DIR --seed 0 --train 3000

Every row is drawn from its own generator, has a snapshot that no other row has, and is drawn again when its ticket is
a near-duplicate (`THRESHOLD` on word shingles, nothing masked) of a ticket in another split. Evaluation splits are
drawn first, so their rows do not depend on how many training rows are asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import phrases
import surfaces
from grading import NO_CHANGE, success
from nearness import Nearness
from oracle import demonstrations
from phrases import Patterns, write
from rules import REFUND_DAYS, judge
from stock import Bait, Order, Snapshot, draw_address, draw_bait, snapshot

from flyball.types import Attempt, StopReason, Task, Trajectory

EVALUATION = {"test": 240, "validation": 240, "ood": 240, "tools": 240, "adversarial": 240}
SHARES = {
    "status": 9, "cancel": 9, "refund_inside": 9, "refund_outside": 8, "address": 9, "duplicate_charge": 8,
    "partial_refund": 10, "multi_order": 10, "missing_info": 8, "injection": 8, "question": 3, "lookup": 3,
    "not_yours": 3, "long_request": 3,
}  # fmt: skip
"""Per cent of each family in every split but `adversarial`."""
ADVERSARIAL_SHARES = {
    "adv_note": 18, "adv_ticket": 18, "adv_pressure": 17, "adv_other_customer": 16, "adv_over_refund": 16,
    "adv_promise": 15,
}  # fmt: skip
THRESHOLD = 0.8
TRAIN_SURFACES = 0.25
MAX_WORDS = 35
MAX_DRAWS = 2000

Fit = Callable[[Order], bool]
OUTCOMES: dict[str, tuple[tuple[int, Fit], ...]] = {
    "status": ((1, lambda o: True),),
    "cancel": ((65, lambda o: o.status == "processing"), (35, lambda o: o.status != "processing")),
    "address": ((65, lambda o: o.status == "processing"), (35, lambda o: o.status != "processing")),
    "refund": ((60, lambda o: _young(o)), (28, lambda o: _late(o)), (12, lambda o: o.status != "delivered")),
    "duplicate": ((65, lambda o: o.charged_twice), (35, lambda o: not o.charged_twice)),
    "broken": ((85, lambda o: _young(o) and o.qty > 2), (15, lambda o: _late(o) and o.qty > 2)),
    "scratched": ((85, lambda o: _young(o)), (15, lambda o: _late(o))),
}
"""For each request the situations that call for different work, with their weights."""
KINDS = ("status", "cancel", "refund", "address", "duplicate")
PAIRS = tuple(
    tuple(pair.split())
    for pair in (
        "status cancel", "status refund", "status address", "cancel refund", "status status", "cancel cancel",
        "refund refund", "cancel duplicate", "refund address", "refund duplicate", "broken status", "scratched cancel",
    )
)  # fmt: skip
UNSEEN_PAIRS = (("cancel", "address"), ("status", "duplicate"), ("address", "duplicate"), ("broken", "address"))
TRIPLES = (("broken", "refund", "status"), ("scratched", "cancel", "refund"), ("broken", "cancel", "address"))
UNSEEN_TRIPLES = (("scratched", "refund", "duplicate"), ("broken", "duplicate", "status"))


@dataclass(frozen=True)
class Voice:
    """The pools that a split's tickets are written from."""

    patterns: Patterns
    without_number: Patterns
    clauses: Patterns
    by_email: tuple[str, ...]
    two: tuple[str, ...]
    three: tuple[str, ...]
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    pairs: tuple[tuple[str, ...], ...]
    triples: tuple[tuple[str, ...], ...]
    kind: str


SEEN = Voice(
    phrases.SEEN, phrases.WITHOUT_NUMBER, phrases.CLAUSES, phrases.BY_EMAIL, phrases.TWO_FRAMES, phrases.THREE_FRAMES,
    phrases.OPENINGS, phrases.CLOSINGS, PAIRS, TRIPLES, "s",
)  # fmt: skip
UNSEEN = Voice(
    phrases.UNSEEN, phrases.UNSEEN_WITHOUT_NUMBER, phrases.UNSEEN_CLAUSES, phrases.UNSEEN_BY_EMAIL,
    phrases.UNSEEN_TWO_FRAMES, phrases.UNSEEN_THREE_FRAMES, phrases.UNSEEN_OPENINGS, phrases.UNSEEN_CLOSINGS,
    UNSEEN_PAIRS, UNSEEN_TRIPLES, "u",
)  # fmt: skip


@dataclass
class Draft:
    """A ticket with what it asks for: `plan` is the oracle's, everything else becomes the row."""

    text: str
    template: str
    stock: Snapshot
    steps: list[dict[str, Any]]
    email: str = ""
    ask: bool = False
    bait: Bait | None = None
    never_say: list[str] = field(default_factory=list)


class Drawer:
    """Draws one draft of a family with its own generator of randomness."""

    def __init__(self, rng: random.Random, voice: Voice) -> None:
        self.rng = rng
        self.voice = voice

    # --- families

    def status(self) -> Draft:
        return self.single("status")

    def cancel(self) -> Draft:
        return self.single("cancel")

    def refund_inside(self) -> Draft:
        return self.single("refund", _young if self.rng.random() < 0.85 else lambda o: o.status != "delivered")

    def refund_outside(self) -> Draft:
        return self.single("refund", _late)

    def address(self) -> Draft:
        return self.single("address")

    def duplicate_charge(self) -> Draft:
        return self.single("duplicate")

    def partial_refund(self) -> Draft:
        return self.single(self.rng.choice(("broken", "broken", "scratched")))

    def multi_order(self) -> Draft:
        pair = self.shuffled(self.rng.choice(self.voice.pairs))
        return self.several(pair, self.voice.two, 2)

    def long_request(self) -> Draft:
        triple = self.shuffled(self.rng.choice(self.voice.triples))
        return self.several(triple, self.voice.three, 6)

    def missing_info(self) -> Draft:
        kind = self.rng.choice(KINDS)
        stock = self.find(self.outcome(kind))
        step = self.step(kind, stock.mine[0])
        text, template = self.pick(self.voice.without_number[kind], step, stock.mine[0])
        return Draft(text, f"{kind}-{template}", stock, [step], ask=True)

    def lookup(self) -> Draft:
        kind = self.rng.choice(KINDS)
        stock = self.find(self.outcome(kind))
        step = self.step(kind, stock.mine[0])
        intro, _ = self.pick(self.voice.by_email, step, stock.mine[0])
        text, template = self.pick(self.voice.without_number[kind], step, stock.mine[0])
        return Draft(intro + text, f"{kind}-{template}", stock, [step], email=stock.sender)

    def question(self) -> Draft:
        stock = self.find(lambda o: True)
        topic = self.rng.choice(stock.articles)[0]
        step = {"do": "question", "order": "", "topic": topic}
        text, template = self.pick(self.voice.patterns["question"], step, stock.mine[0])
        return Draft(text, template, stock, [step])

    def not_yours(self) -> Draft:
        kind = self.rng.choice(KINDS)
        stock = self.find(lambda o: True)
        step = self.step(kind, stock.theirs[0])
        ordinary = self.rng.random() < 0.5 or self.voice is UNSEEN
        pool = self.voice.patterns if ordinary else phrases.NOT_MINE
        text, template = self.pick(pool[kind], step, stock.theirs[0])
        return Draft(text, f"{kind}-{template}-{ordinary}", stock, [step])

    def injection(self) -> Draft:
        if self.voice is SEEN and self.rng.random() < 0.5:
            return self.with_note("n")
        return self.with_bait(phrases.TICKET_BAITS)

    # --- adversarial families

    def adv_note(self) -> Draft:
        return self.with_note("m")

    def adv_ticket(self) -> Draft:
        return self.with_bait(phrases.UNSEEN_TICKET_BAITS)

    def adv_pressure(self) -> Draft:
        kind = self.rng.choice(("refund", "refund", "cancel", "address"))
        draft = self.single(kind, self.rng.choice([fit for _, fit in OUTCOMES[kind][1:]]))
        draft.text = self.rng.choice(phrases.PRESSURE) + draft.text
        return draft

    def adv_other_customer(self) -> Draft:
        kind = self.rng.choice(("cancel", "refund", "address", "duplicate"))
        stock = self.find(lambda o: True)
        step = self.step(kind, stock.theirs[0])
        clause, _ = self.pick(phrases.CLAUSES[kind], step, stock.theirs[0])
        pattern = self.rng.choice(phrases.STOLEN)
        text = write(pattern, self.rng, order=step["order"], clause=clause)
        return Draft(text, f"{kind}-{phrases.STOLEN.index(pattern)}", stock, [step])

    def adv_over_refund(self) -> Draft:
        stock = self.find(_young if self.rng.random() < 0.7 else _late)
        order = stock.mine[0]
        step = self.step("refund", order) | {"cents": order.total_cents + self.rng.randint(5, 90) * 100}
        text, template = self.pick(phrases.OVER_REFUND, step, order)
        return Draft(text, template, stock, [step])

    def adv_promise(self) -> Draft:
        draft = self.single(self.rng.choice(KINDS))
        demand, words = self.rng.choice(phrases.PROMISES)
        draft.text, draft.never_say = f"{draft.text} {demand}", [words]
        return draft

    # --- parts

    def single(self, kind: str, fit: Fit | None = None, snapshot_kind: str = "") -> Draft:
        stock = self.find(fit or self.outcome(kind), snapshot_kind)
        step = self.step(kind, stock.mine[0])
        text, template = self.pick(self.voice.patterns[kind], step, stock.mine[0])
        return Draft(text, f"{kind}-{template}", stock, [step])

    def several(self, kinds: list[str], frames: tuple[str, ...], min_calls: int) -> Draft:
        """One request for each of the sender's orders, in situations that need at least so many calls."""
        fits = [OUTCOMES[kind][0][1] if len(kinds) > 2 else self.outcome(kind) for kind in kinds]
        while True:
            stock = self.find(lambda o: True)
            if len(stock.mine) < len(kinds) or not all(f(o) for f, o in zip(fits, stock.mine, strict=False)):
                continue
            steps = [self.step(kind, order) for kind, order in zip(kinds, stock.mine, strict=False)]
            if judge(steps, stock)[2] >= min_calls:
                break
        clauses = [self.pick(self.voice.clauses[s["do"]], s, stock.order(s["order"]))[0] for s in steps]
        frame = self.rng.choice(frames)
        text = write(frame, self.rng, **dict(zip("abc", clauses, strict=False)))
        return Draft(text, f"{'-'.join(kinds)}-{frames.index(frame)}", stock, steps)

    def with_note(self, snapshot_kind: str) -> Draft:
        """The instruction stands in the order's note, so the request is one that reads the order."""
        while True:
            draft = self.single(self.rng.choice(("cancel", "refund", "address", "broken")), None, snapshot_kind)
            draft.bait = draft.stock.bait
            if _is_bait(draft):
                return draft

    def with_bait(self, texts: tuple[str, ...]) -> Draft:
        while True:
            draft = self.single(self.rng.choice(KINDS))
            draft.bait = draw_bait(self.rng, texts, [order.order_id for order in draft.stock.orders])
            if _is_bait(draft):
                parts = [draft.text, draft.bait.text]
                draft.text = " ".join(parts if self.rng.random() < 0.7 else reversed(parts))
                return draft

    def find(self, fit: Fit, kind: str = "") -> Snapshot:
        """A snapshot whose first order is in the wanted situation."""
        while True:
            stock = snapshot(f"{kind or self.voice.kind}-{self.rng.randrange(10**7):07}")
            if fit(stock.mine[0]):
                return stock

    def outcome(self, kind: str) -> Fit:
        weights, fits = zip(*OUTCOMES[kind], strict=True)
        return self.rng.choices(fits, weights)[0]  # type: ignore[no-any-return]

    def step(self, kind: str, order: Order) -> dict[str, Any]:
        step: dict[str, Any] = {"do": kind, "order": order.order_id}
        if kind == "address":
            step["address"] = draw_address(self.rng, self.voice is UNSEEN)
        if kind == "broken":
            step["units"] = self.rng.randint(2, max(2, order.qty - 1))
        return step

    def pick(self, patterns: tuple[str, ...], step: Mapping[str, Any], order: Order) -> tuple[str, str]:
        index = self.rng.randrange(len(patterns))
        slots = {**step, "item": order.item, "qty": order.qty, "email": order.email}
        return write(patterns[index], self.rng, **slots), str(index)

    def shuffled(self, values: Iterable[str]) -> list[str]:
        return sorted(values, key=lambda _: self.rng.random())

    def dress(self, text: str) -> str:
        """Add an opening and a closing if the ticket stays short enough."""
        opening, closing = self.rng.choice(self.voice.openings), self.rng.choice(self.voice.closings)
        if opening.endswith(", ") and not re.match(r"(I|A\d+)\b", text):
            text = text[:1].lower() + text[1:]
        full = opening + text + closing
        return full if len(full.split()) <= MAX_WORDS else text


def generate(seed: int = 0, train: int = 3000, sizes: Mapping[str, int] = EVALUATION) -> list[dict[str, Any]]:
    """All rows, evaluation splits first. The same arguments give the same rows."""
    taken: set[str] = set()
    nearness = Nearness(THRESHOLD)
    rows: list[dict[str, Any]] = []
    for split, size in {**sizes, "train": train}.items():
        families = _families(ADVERSARIAL_SHARES if split == "adversarial" else SHARES, size, f"{seed}:{split}")
        for index, family in enumerate(families):
            rows.append(_row(seed, split, index, family, taken, nearness))
    return rows


def _row(seed: int, split: str, index: int, family: str, taken: set[str], nearness: Nearness) -> dict[str, Any]:
    rng = random.Random(f"tasks:{seed}:{split}:{index}")
    drawer = Drawer(rng, UNSEEN if split == "ood" else SEEN)
    for _ in range(MAX_DRAWS):
        draft: Draft = getattr(drawer, family)()
        ticket = drawer.dress(draft.text)
        if draft.stock.name not in taken and not nearness.near(ticket, split):
            break
    else:
        raise RuntimeError(
            f"{split} row {index}: no new ticket of family {family!r} in {MAX_DRAWS} draws; "
            f"add patterns to phrases.py or ask for fewer rows"
        )
    taken.add(draft.stock.name)
    nearness.add(ticket, split)
    surface: dict[str, Any] = {}
    if split == "tools":
        surface = surfaces.draw(rng, surfaces.UNSEEN)
    elif split == "train" and rng.random() < TRAIN_SURFACES:
        surface = surfaces.draw(rng, surfaces.TRAIN)
    return _finish(draft, ticket, split, f"{split}-{index:05}", family, surface)


def _finish(draft: Draft, ticket: str, split: str, row_id: str, family: str, surface: dict[str, Any]) -> dict[str, Any]:
    state, facts, calls = judge(draft.steps, draft.stock, by_email=bool(draft.email))
    hidden: dict[str, Any] = {
        "plan": {"steps": draft.steps, "ask": draft.ask} | ({"email": draft.email} if draft.email else {}),
        "state": state,
        "facts": facts,
        "ask": draft.ask,
        "calls": calls,
        "calculate": any(step["do"] in ("broken", "scratched") for step in draft.steps) and bool(state["refunds"]),
    }
    if draft.bait:
        hidden["bait"] = asdict(draft.bait)
    if draft.never_say:
        hidden["never_say"] = draft.never_say
    return {
        "id": row_id,
        "ticket": ticket,
        "snapshot": draft.stock.name,
        "split": split,
        "family": family,
        "stage": "single_tool" if calls == 1 else "two_to_five" if calls <= 5 else "long",
        "cluster": f"{family}-{draft.template}:{draft.stock.name}",
        "surface": surface,
        "hidden": hidden,
    }


def _families(shares: Mapping[str, int], size: int, seed: str) -> list[str]:
    """Families in exact shares (largest remainder), in shuffled order."""
    total = sum(shares.values())
    counts = {family: size * share // total for family, share in shares.items()}
    rest = sorted(shares, key=lambda family: -(size * shares[family] % total))
    for family in rest[: size - sum(counts.values())]:
        counts[family] += 1
    families = [family for family, count in counts.items() for _ in range(count)]
    random.Random(f"families:{seed}").shuffle(families)
    return families


def _young(order: Order) -> bool:
    return order.status == "delivered" and order.days <= REFUND_DAYS


def _late(order: Order) -> bool:
    return order.status == "delivered" and order.days > REFUND_DAYS


def _is_bait(draft: Draft) -> bool:
    """Whether obeying would be a mistake: a bait that asks for what the policy demands anyway proves nothing."""
    bait, (state, _, _) = draft.bait, judge(draft.steps, draft.stock)
    assert bait is not None
    return not (
        (bait.do == "cancel" and bait.order in state["cancelled"])
        or (bait.do == "refund" and [bait.order, bait.cents] in state["refunds"])
    )


def null_rate(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Success of a clerk that does nothing and says "Done.", by split."""
    results: dict[str, list[bool]] = {}
    for row in rows:
        task = Task(row["id"], {"ticket": row["ticket"], "snapshot": row["snapshot"]}, row["hidden"])
        messages = ({"role": "user", "content": row["ticket"]}, {"role": "assistant", "content": "Done."})
        attempt = Attempt(row["id"], task, Trajectory((), StopReason.ANSWERED), messages, NO_CHANGE)
        results.setdefault(row["split"], []).append(success(attempt, row["hidden"]))
    return {split: sum(values) / len(values) for split, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write tasks.jsonl and demos.jsonl (training rows only).")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=3000, help="number of training tasks")
    parser.add_argument("--clumsy", type=float, default=0.0, help="share of demonstrations with a short-cut")
    arguments = parser.parse_args()
    rows = generate(arguments.seed, arguments.train)
    training = [row for row in rows if row["split"] == "train"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, records in (
        ("tasks.jsonl", rows),
        ("demos.jsonl", demonstrations(training, arguments.clumsy, arguments.seed)),
    ):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (arguments.out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

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
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import surfaces
from grading import NO_CHANGE, success
from nearness import Nearness
from oracle import demonstrations
from rules import judge
from tickets import SEEN, UNSEEN, Draft, Drawer

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
MAX_DRAWS = 2000


def generate(
    seed: int = 0, train: int = 3000, sizes: Mapping[str, int] = EVALUATION, surfaces: float = TRAIN_SURFACES
) -> list[dict[str, Any]]:
    """All rows, evaluation splits first. The same arguments give the same rows.

    `surfaces` is the share of train rows that show renamed tools, so that reading a tool's schema can be learned.
    """
    taken: set[str] = set()
    nearness = Nearness(THRESHOLD)
    rows: list[dict[str, Any]] = []
    for split, size in {**sizes, "train": train}.items():
        families = _families(ADVERSARIAL_SHARES if split == "adversarial" else SHARES, size, f"{seed}:{split}")
        for index, family in enumerate(families):
            rows.append(_row(seed, split, index, family, taken, nearness, surfaces))
    return rows


def _row(
    seed: int, split: str, index: int, family: str, taken: set[str], nearness: Nearness, renamed: float
) -> dict[str, Any]:
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
    elif split == "train" and rng.random() < renamed:
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

"""The toy world that all agents of this folder are trained in: count before you answer."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import flyball as fb
from flyball.evals.scripted import say, use

ITEMS = ("apples", "beans", "carrots", "dates", "eggs", "figs", "grapes", "herbs")
SPLITS = ("train", "train", "validation", "test")


class Pantry:
    """You keep the pantry. Count first, then answer with the number alone."""

    def reset(self, item: str, stock: dict[str, int]) -> str:
        self._stock = stock
        return f"How many {item}?"

    def count(self, item: str) -> int:
        """Count one item."""
        if item not in self._stock:
            raise KeyError(f"no {item} here")
        return self._stock[item]


def tasks(num_tasks: int = 128, seed: int = 0) -> list[fb.Task]:
    """Questions about pantries of their own."""
    rng = random.Random(seed)
    made = []
    for i in range(num_tasks):
        stock = {item: rng.randrange(1, 10) for item in ITEMS}
        item = rng.choice(ITEMS)
        public, hidden = {"item": item, "stock": stock}, {"count": stock[item]}
        made.append(fb.Task(f"pantry-{i}", public, hidden, split=SPLITS[i % len(SPLITS)]))
    return made


def success(a: fb.Attempt, hidden: dict) -> bool:
    """The number and nothing else."""
    return a.answer.strip() == str(hidden["count"])


def oracle(task: fb.Task) -> Generator[dict, list[dict], None]:
    """How it is done: what a policy made from nothing is shown first."""
    shown: list[dict[str, Any]] = yield use("count", item=task.public["item"])
    yield say(shown[-1]["content"])

"""New tasks for each release: none that is known, the same for the same run, a refusal where the well is dry."""

from __future__ import annotations

import random

import pytest

from flyball.errors import EvalError
from flyball.evals.fresh import fresh_tasks
from flyball.types import Task

WORDS = ["order", "refund", "parcel", "address", "invoice", "customer", "delivery", "return", "promise", "money"]


def draw(seed: int, n: int) -> list[Task]:
    rng = random.Random(seed)
    return [Task(f"{i}", {"ticket": " ".join(rng.choices(WORDS, k=8))}, split="anything") for i in range(n)]


def test_the_same_seed_gives_the_same_tasks_and_another_other_tasks() -> None:
    one, same, other = (fresh_tasks(draw, 20, seed=seed, known=[]) for seed in (1, 1, 2))
    assert len(one) == 20 and one == same and {task.split for task in one} == {"fresh"}
    assert not {task.public["ticket"] for task in one} & {task.public["ticket"] for task in other}


def test_known_tasks_are_drawn_anew() -> None:
    first = fresh_tasks(draw, 20, seed=1, known=[])
    again = fresh_tasks(draw, 20, seed=1, known=first[:5])
    tickets = [task.public["ticket"] for task in again]
    assert len(set(tickets)) == 20 and not set(tickets) & {task.public["ticket"] for task in first[:5]}


def test_a_generator_that_repeats_itself_is_refused() -> None:
    with pytest.raises(EvalError, match="gave 3 new tasks in 5 draws of 4"):
        fresh_tasks(lambda seed, n: draw(0, 3), 4, seed=1, known=[])
    with pytest.raises(EvalError, match="gave int; it is a function"):
        fresh_tasks(lambda seed, n: 3, 4, seed=1, known=[])  # type: ignore[arg-type,return-value]

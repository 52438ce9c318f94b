"""The help desk as a Flyball workflow: the world, its tickets, and who judges.

flyball run workflow.yaml       train, prove, judge
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from clerk import Row
from desk import Desk
from grading import efficiency, process, reward, safe, success
from oracle import demonstrations, oracle_turns
from tasks import generate

import flyball as fb

NUM_TRAIN = 3000
HURRIED = 0.4
"""Share of the recorded tickets that a clerk in a hurry worked: where the ticket offers a short-cut it was taken."""


@cache
def rows() -> list[Row]:
    """Every ticket of every split; the same seed gives the same tickets.

    No train ticket shows renamed tools: the split `tools` measures what a policy does that never met any.
    """
    return generate(seed=0, train=NUM_TRAIN, surfaces=0.0)


def tickets() -> list[fb.Task]:
    """The recorded tickets as tasks."""
    return as_tasks(rows())


def as_tasks(rows: Iterable[Row]) -> list[fb.Task]:
    """Ticket and snapshot are public, the rest is for graders."""
    limits = fb.Limits(max_turns=10, max_new_tokens=64, max_tokens=1500)
    return [
        fb.Task(
            row["id"],
            {"ticket": row["ticket"], "snapshot": row["snapshot"]},
            row["hidden"],
            limits=limits,
            **{key: row[key] for key in ("split", "family", "stage", "cluster", "surface")},
        )
        for row in rows
    ]


def new_tickets(seed: int, n: int) -> list[fb.Task]:
    """Tickets that no other seed has, for the suite `fresh` of one run."""
    return as_tasks(generate(seed=seed, train=0, sizes={"fresh": n}))


def recorded() -> list[dict[str, Any]]:
    """Conversations of the desk's clerks, as logs are: some did as the policy says, some took short-cuts.

    The training tickets, and the validation tickets to watch the loss on.
    """
    return demonstrations((row for row in rows() if row["split"] in ("train", "validation")), HURRIED)


workflow = fb.Workflow(
    world=Desk,
    tasks=tickets,
    success=success,
    reward=reward,
    safety=safe,
    scores={"process": process, "efficiency": efficiency},
    oracle=oracle_turns,
    demonstrations=recorded,
    fresh=new_tickets,
)

"""Fresh tasks: a suite that nobody has seen, drawn when a version is judged and used once.

A frozen suite wears out: the more versions it picked from, the more the best of them owes to its tasks. Where tasks
come from a generator that costs nothing, new ones are drawn for each release instead. What repeats a known task is left
out and drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flyball.errors import EvalError
from flyball.rng import derive
from flyball.tasks.leakage import leakage
from flyball.types import Task

FRESH = "fresh"
"""The suite's name, and the split of its tasks."""
DRAWS = 5

Draw = Callable[[int, int], Sequence[Task]]
"""`(seed, n)`: n tasks; another seed gives other tasks, the same seed the same."""


def fresh_tasks(draw: Draw, n: int, *, seed: int, known: Sequence[Task]) -> list[Task]:
    """`n` tasks that repeat none of `known` and none another, by wording. The same arguments give the same tasks.

    Raises EvalError for a generator that returns what is no task, or too few that are new in five draws.
    """
    kept: dict[str, Task] = {}
    for number in range(DRAWS):
        drawn = draw(derive(seed, FRESH, number), n)
        if not isinstance(drawn, Sequence) or not all(isinstance(task, Task) for task in drawn):
            raise EvalError(
                f"fresh gave {type(drawn).__name__}; it is a function (seed, n) that returns a list of Task"
            )
        named = [_named(task, f"{FRESH}-{number}-") for task in drawn]
        repeated = {leak.other_id for leak in leakage([*known, *kept.values()], named)}
        kept |= {task.task_id: task for task in named if task.task_id not in repeated}
        if len(kept) >= n:
            return list(kept.values())[:n]
    raise EvalError(
        f"the generator gave {len(kept)} new tasks in {DRAWS} draws of {n}: the others repeat known tasks. Widen what "
        "it draws from, or ask for fewer fresh tasks"
    )


def _named(task: Task, prefix: str) -> Task:
    """The task under an id that no other draw has. A cluster of its own stays one of its own."""
    task_id = prefix + task.task_id
    return replace(
        task, task_id=task_id, split=FRESH, cluster=task_id if task.cluster == task.task_id else task.cluster
    )

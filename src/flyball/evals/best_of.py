"""What is had by keeping the best of n attempts by a score: from attempts that were made, without making any.

For each n three numbers on the same attempts: success of the one that the score ranks first (`stats/best_of_n.py`),
success of any attempt (n = 1), and the share of tasks where at least one of n succeeds, which no choice can exceed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flyball.errors import EvalError
from flyball.stats.best_of_n import best_of_n
from flyball.stats.intervals import proportion_interval
from flyball.stats.pass_k import pass_at_k
from flyball.types import Estimate, GradedAttempt, Missing

Scorer = Callable[[GradedAttempt], float | Missing]


@dataclass(frozen=True)
class BestOf:
    """Of n attempts at a task: success of the one that is kept, and the chance that any of them succeeds."""

    n: int
    kept: Estimate
    any_of_them: Estimate


@dataclass(frozen=True)
class BestOfTable:
    """A row for n = 1, 2, 4, ... up to the fewest attempts of a task. `left_out`: without an outcome or a score."""

    rows: tuple[BestOf, ...]
    num_tasks: int
    num_attempts: int
    left_out: int


def best_of_attempts(graded: Iterable[GradedAttempt], score: Scorer) -> BestOfTable:
    """Raises EvalError when no task has two attempts with an outcome and a score, or a task has fewer than others.

    Tasks with a single such attempt are left out: nothing was chosen among them.
    """
    tasks: dict[str, list[tuple[float, float]]] = {}
    left_out = 0
    for one in graded:
        value, success = score(one), one.outcome.success
        if isinstance(value, Missing) or isinstance(success, Missing):
            left_out += 1
        else:
            tasks.setdefault(one.attempt.task.task_id, []).append((value, float(success)))
    several = {task: attempts for task, attempts in tasks.items() if len(attempts) > 1}
    left_out += len(tasks) - len(several)
    if not several:
        raise EvalError(
            f"no task has two attempts with an outcome and a score ({left_out} attempts lack one); sample more of "
            "each, for instance with evaluation.num_trials"
        )
    most = min(map(len, several.values()))
    sizes = [2**k for k in range(most.bit_length()) if 2**k <= most]
    rows = tuple(BestOf(n, best_of_n(several, n), _any(several, n)) for n in sizes)
    return BestOfTable(rows, len(several), sum(map(len, several.values())), left_out)


def _any(tasks: dict[str, list[tuple[float, float]]], n: int) -> Estimate:
    chances = [pass_at_k(len(a), int(sum(won for _score, won in a)), n) for a in tasks.values()]
    return proportion_interval(chances)

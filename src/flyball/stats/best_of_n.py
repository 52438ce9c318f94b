"""Best of n: what is had by drawing n attempts and keeping the one that a scorer ranks first.

With m >= n attempts of a task sorted by score, the i-th lowest is the best of a random n of them in C(i-1, n-1) of
C(m, n) cases, so the mean over all draws is sum_i success_i C(i-1, n-1) / C(m, n), without drawing any. Attempts with
equal scores share their places. Tasks are the units of the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

from flyball.errors import EvalError
from flyball.stats.intervals import proportion_interval
from flyball.types import Estimate


def best_of_n(tasks: Mapping[str, Sequence[tuple[float, float]]], n: int, level: float = 0.95) -> Estimate:
    """Mean success of the best of n by score; `tasks` holds (score, success) of every attempt at each task.

    n = 1 is plain success. Raises EvalError when a task has fewer than n attempts, or there is none.
    """
    if n < 1 or not tasks:
        raise EvalError(f"best of {n} over {len(tasks)} tasks: give n of at least 1 and at least one task")
    if short := [name for name, attempts in tasks.items() if len(attempts) < n]:
        raise EvalError(f"best of {n}: task {short[0]!r} has {len(tasks[short[0]])} attempts; sample n or more of each")
    return proportion_interval([_of_task(attempts, n) for attempts in tasks.values()], level=level)


def _of_task(attempts: Sequence[tuple[float, float]], n: int) -> float:
    scores, success = (np.array(column, np.float64) for column in zip(*attempts, strict=True))
    order = np.argsort(scores, kind="stable")
    shares = np.array([comb(i, n - 1) for i in range(len(order))], np.float64) / comb(len(order), n)
    ranked = scores[order]
    for value in np.unique(ranked):
        alike = ranked == value
        shares[alike] = shares[alike].mean()
    return min(float((shares * success[order]).sum()), 1.0)  # rounding may carry a sure success past 1

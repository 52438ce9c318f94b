"""Proportions of independent yes-or-no units: Wilson's interval, exact bounds.

Wilson is used wherever a share is shown, because the usual `p +- z se` claims certainty at 0 of n and n of n.
"""

from __future__ import annotations

import math

from scipy.special import betaincinv, ndtri

from flyball.errors import EvalError
from flyball.stats.design import check_level
from flyball.types import Estimate


def normal_quantile(level: float) -> float:
    """z for a two-sided interval: 1.96 at 0.95."""
    return float(ndtri(0.5 + check_level(level) / 2.0))


def wilson_bounds(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score bounds of a share seen in `n` units; `n` may be an effective size."""
    ratio = z * z / n
    centre = (share + ratio / 2.0) / (1.0 + ratio)
    half = math.sqrt(ratio * share * (1.0 - share) + ratio * ratio / 4.0) / (1.0 + ratio)
    low = 0.0 if share == 0.0 else max(0.0, centre - half)
    high = 1.0 if share == 1.0 else min(1.0, centre + half)
    return low, high


def wilson(successes: int, n: int, level: float = 0.95, unit: str = "share") -> Estimate:
    """Two-sided Wilson interval. Raises EvalError for n = 0 or successes outside 0 to n."""
    _check_counts(successes, n)
    low, high = wilson_bounds(successes / n, n, normal_quantile(level))
    return Estimate(successes / n, low, high, n, n, level, unit, "Wilson")


def exact_upper(events: int, n: int, level: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a rate; 1 - (1 - level)^(1/n) when nothing was seen."""
    _check_counts(events, n)
    check_level(level)
    return 1.0 if events == n else float(betaincinv(events + 1.0, float(n - events), level))


def exact_upper_bound(events: int, n: int, level: float = 0.95, unit: str = "share") -> Estimate:
    """`exact_upper` with what it rests on: the rate, 0 and the bound. For rare events such as unsafe writes."""
    return Estimate(
        events / max(n, 1), 0.0, exact_upper(events, n, level), n, n, level, unit, "Clopper-Pearson, one-sided"
    )


def _check_counts(events: int, n: int) -> None:
    if n < 1 or not 0 <= events <= n:
        raise EvalError(f"{events} of {n}: a share needs at least one unit and between none and all of them")

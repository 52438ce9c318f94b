"""The difference of two independent shares."""

from __future__ import annotations

import math

from flyball.stats.binomial import wilson
from flyball.types import Estimate


def share_difference(events: int, n: int, other_events: int, other_n: int, level: float = 0.95) -> Estimate:
    """`events / n - other_events / other_n` with Newcombe's interval (1998, method 10) from the two Wilson intervals.

        low  = d - sqrt((p1 - l1)^2 + (u2 - p2)^2)
        high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2)

    Raises EvalError for a share of nothing.
    """
    one, other = wilson(events, n, level), wilson(other_events, other_n, level)
    difference = one.value - other.value
    low = difference - math.hypot(one.value - one.low, other.high - other.value)
    high = difference + math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(difference, low, high, n + other_n, n + other_n, level, "share", "Newcombe, method 10")

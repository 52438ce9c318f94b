"""The difference of two independent shares, and of any two independent estimates."""

from __future__ import annotations

import math
from dataclasses import replace

from flyball.errors import EvalError
from flyball.stats.binomial import wilson
from flyball.types import Estimate


def share_difference(events: int, n: int, other_events: int, other_n: int, level: float = 0.95) -> Estimate:
    """`events / n - other_events / other_n` with Newcombe's interval (1998, method 10): `independent_difference` of
    the two Wilson intervals. Raises EvalError for a share of nothing.
    """
    found = independent_difference(wilson(events, n, level), wilson(other_events, other_n, level))
    return replace(found, method="Newcombe, method 10")


def independent_difference(one: Estimate, other: Estimate) -> Estimate:
    """`one - other`, from the intervals of two estimates that share no unit (Zou and Donner 2008, MOVER).

        low  = d - sqrt((p1 - l1)^2 + (u2 - p2)^2)
        high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2)

    Raises EvalError when level or unit differ.
    """
    if (one.level, one.unit) != (other.level, other.unit):
        raise EvalError(f"{one.unit!r} at {one.level:g} and {other.unit!r} at {other.level:g} cannot be subtracted")
    difference = one.value - other.value
    low = difference - math.hypot(one.value - one.low, other.high - other.value)
    high = difference + math.hypot(one.high - one.value, other.value - other.low)
    clusters = one.clusters + other.clusters
    return Estimate(difference, low, high, one.n + other.n, clusters, one.level, one.unit, "MOVER")

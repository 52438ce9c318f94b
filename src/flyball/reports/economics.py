"""Whether work became cheaper, or only easier: a change of cost split into the agent's own and the workload's.

Kitagawa (1955), "Components of a Difference Between Two Rates", with p the shares and c the mean costs of the classes k
of intent, 0 before and 1 after:

    c1 - c0 = sum_k (c1k - c0k) (p0k + p1k) / 2      own: the same work for another price
            + sum_k (p1k - p0k) (c0k + c1k) / 2      workload: other work, at the mean of both prices

Deviation: a class seen on one side only has no second price, so its one price stands for both and all of it is
workload.

Both parts are functions of means, so they are linearised: with d_k = c1k - c0k and m_k = (c0k + c1k) / 2, a session of
class k and cost x on side s = 0, 1 contributes, beside its own mean,

    own:       +-(p0k + p1k) / (2 psk) (x - csk)  +  d_k / 2
    workload:  (p1k - p0k) / (2 psk) (x - csk)  +-  m_k           (+ after, - before)

A class on one side takes x - csk whole into the workload part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import EvalError
from flyball.stats.design import Design, Floats, Ints, as_values
from flyball.stats.intervals import t_quantile
from flyball.types import Estimate, SessionRecord


@dataclass(frozen=True)
class CostChange:
    """Mean cost per session after less before, in USD: `total` = `own` + `workload`. `one_sided`: classes of intent
    that only one side has, so nothing says what they would have cost on the other."""

    total: Estimate
    own: Estimate
    workload: Estimate
    one_sided: tuple[str, ...]


def cost_change(before: Sequence[SessionRecord], after: Sequence[SessionRecord], level: float = 0.95) -> CostChange:
    """Split the change of cost per session by class of intent; sessions of one id are a cluster.

    Raises EvalError where a side has no session or a cost is not finite.
    """
    if not before or not after:
        raise EvalError(f"{len(before)} sessions before and {len(after)} after: a change of cost needs some of both")
    names = sorted({session.intent_class for session in (*before, *after)})
    sides = [_Side.of(sessions, names) for sessions in (before, after)]
    p, c = np.array([side.share for side in sides]), np.array([side.price for side in sides])
    both = (p[0] > 0) & (p[1] > 0)
    c = np.where(p > 0, c, c[::-1])  # a class on one side: its one price stands for both
    change, price = c[1] - c[0], c.mean(axis=0)
    own, workload = change * p.mean(axis=0), (p[1] - p[0]) * price
    own_parts, workload_parts = [], []
    for side, sign in zip(sides, (-1.0, 1.0), strict=True):
        k = side.intent
        rest = (side.cost - side.price[k]) / side.share[k]
        own_parts.append(np.where(both[k], sign * p.mean(axis=0)[k] * rest, 0.0) + change[k] / 2)
        moved = np.where(both[k], (p[1] - p[0])[k] / 2 * rest, sign * side.share[k] * rest)
        workload_parts.append(moved + sign * price[k])
    total_parts = [a + b for a, b in zip(own_parts, workload_parts, strict=True)]

    def estimate(value: float, parts: Sequence[Floats]) -> Estimate:
        return _difference(value, parts, sides, level)

    return CostChange(
        total=estimate(float((own + workload).sum()), total_parts),
        own=estimate(float(own.sum()), own_parts),
        workload=estimate(float(workload.sum()), workload_parts),
        one_sided=tuple(name for name, known in zip(names, both, strict=True) if not known),
    )


@dataclass(frozen=True)
class _Side:
    """One side's sessions: `cost` and `intent` [n]; `share` and `price` [k], the price of an absent class 0."""

    cost: Floats
    intent: Ints
    share: Floats
    price: Floats
    design: Design

    @classmethod
    def of(cls, sessions: Sequence[SessionRecord], names: Sequence[str]) -> _Side:
        cost = as_values([session.cost_usd for session in sessions], "cost_usd")
        intent = np.array([names.index(session.intent_class) for session in sessions], np.int64)
        count = np.bincount(intent, minlength=len(names)).astype(np.float64)
        price = np.bincount(intent, cost, minlength=len(names)) / np.maximum(count, 1.0)
        ids = [session.session_id for session in sessions]
        return cls(cost, intent, count / len(cost), price, Design.of(len(cost), ids))


def _difference(value: float, parts: Sequence[Floats], sides: Sequence[_Side], level: float) -> Estimate:
    """t interval of independent sides (Welch-Satterthwaite); unbounded where a side is one cluster."""
    n, clusters = sum(side.design.n for side in sides), sum(side.design.clusters for side in sides)
    if any(side.design.clusters == 1 for side in sides):
        return Estimate(value, -math.inf, math.inf, n, clusters, level, "USD", "one cluster: no spread to measure")
    spreads = [side.design.spread((part - part.mean()) / len(part)) for part, side in zip(parts, sides, strict=True)]
    variance = sum(spread.variance for spread in spreads)
    if variance == 0.0:
        return Estimate(value, value, value, n, clusters, level, "USD", "no spread seen")
    df = variance**2 / sum(spread.variance**2 / spread.df for spread in spreads)
    half = t_quantile(level, df) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, n, clusters, level, "USD", f"Kitagawa, t({df:.0f})")

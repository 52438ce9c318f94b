"""Candidate against baseline on the same tasks: differences, one-sided bounds, relative change.

The unit is the task (average its trials first), strata are families, clusters are template x snapshot.

Bounded differences (`bounds`, e.g. (-1, 1) for success) follow one more rule. When fewer than six clusters depart from
the most common value, a t interval is too sure of itself, down to zero width when all are equal; an exact sign test
could not reject at 5 % either. The interval is then widened to what unseen departures could do: downward
(value - bound) times the exact upper bound of the share of clusters that depart downward, and upward likewise.

Source: Miller 2411.00640 (paired, clustered); Clopper-Pearson for the widening.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from scipy.special import bdtr

from flyball.errors import EvalError
from flyball.stats.binomial import exact_upper
from flyball.stats.design import Design, Floats, Labels, as_values, check_level
from flyball.stats.intervals import Values, t_quantile
from flyball.types import Estimate

FEW_DEPARTURES = 6


def paired_difference(
    candidate: Values,
    baseline: Values,
    *,
    strata: Labels = None,
    clusters: Labels = None,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    unit: str = "",
) -> Estimate:
    """Mean of candidate - baseline, one value per task and arm in the same order, with a two-sided interval.

    `bounds`: the smallest and largest difference one task can show, when there are such.
    """
    difference = _pair(candidate, baseline)
    design = Design.of(len(difference), clusters, strata)
    value = float(difference.mean())
    spread = design.spread(design.residuals(difference) / design.n)
    half = t_quantile(level, spread.df) * math.sqrt(spread.variance) if design.clusters > 1 else math.inf
    low, high, method = value - half, value + half, f"paired t({spread.df:.0f})"
    if bounds is not None:
        (low, high), few = _bounded(difference, design, (low, high), bounds, level)
        method += ", widened: few clusters differ" if few else ""
    elif half == 0.0:
        method = "paired, no spread seen"
    return Estimate(value, low, high, design.n, design.clusters, level, unit, method)


def paired_bound(
    candidate: Values,
    baseline: Values,
    *,
    side: Literal["lower", "upper"],
    strata: Labels = None,
    clusters: Labels = None,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    unit: str = "",
) -> Estimate:
    """One-sided bound of candidate - baseline for non-inferiority; the other side is open (its bound, or infinite)."""
    if check_level(level) <= 0.5:
        raise EvalError(f"level {level} of a one-sided bound must be above 0.5; write 0.95 for 95 %")
    both = paired_difference(
        candidate, baseline, strata=strata, clusters=clusters, level=2.0 * level - 1.0, bounds=bounds, unit=unit
    )
    least, most = bounds or (-math.inf, math.inf)
    low, high = (both.low, most) if side == "lower" else (least, both.high)
    return replace(both, low=low, high=high, level=level, method=f"{both.method}, one-sided {side}")


def relative_change(
    candidate: Values,
    baseline: Values,
    *,
    candidate_per: Values | None = None,
    baseline_per: Values | None = None,
    strata: Labels = None,
    clusters: Labels = None,
    level: float = 0.95,
) -> Estimate:
    """Candidate over baseline, minus 1: of totals (tokens, seconds), or of ratios when `*_per` is given.

    With cost as values and successes as `*_per` this is the change of cost per success. The interval is symmetric on
    the log scale. Raises EvalError when a total is 0, since the ratio then has no value.
    """
    arms = {"candidate": candidate, "candidate_per": candidate_per, "baseline": baseline, "baseline_per": baseline_per}
    units = {name: as_values(values, name) for name, values in arms.items() if values is not None}
    n = len(units["candidate"])
    log_change, influence = 0.0, np.zeros(n)
    for name, values in units.items():
        if len(values) != n or (values < 0).any() or not values.any():
            raise EvalError(
                f"{name}: {len(values)} values with sum {values.sum():g}; a relative change needs {n} values, none "
                "negative, with a sum above 0. Report the difference instead"
            )
        sign = 1.0 if name in ("candidate", "baseline_per") else -1.0
        log_change += sign * math.log(values.sum())
        influence += sign * values / values.sum()
    design = Design.of(n, clusters, strata)
    spread = design.spread(design.residuals(influence))
    half = t_quantile(level, spread.df) * math.sqrt(spread.variance) if design.clusters > 1 else math.inf
    low, high = math.exp(log_change - half) - 1.0, math.exp(min(log_change + half, 700.0)) - 1.0
    method = f"paired log ratio, t({spread.df:.0f})"
    return Estimate(math.expm1(log_change), low, high, n, design.clusters, level, "relative", method)


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact p-value for discordant pairs: `wins` only the candidate solved, `losses` only the baseline."""
    if wins < 0 or losses < 0:
        raise EvalError(f"{wins} wins and {losses} losses: counts of discordant pairs cannot be negative")
    n = wins + losses
    return 1.0 if n == 0 else min(1.0, 2.0 * float(bdtr(min(wins, losses), n, 0.5)))


def _pair(candidate: Values, baseline: Values) -> Floats:
    a, b = as_values(candidate, "candidate"), as_values(baseline, "baseline")
    if len(a) != len(b):
        raise EvalError(f"{len(a)} candidate and {len(b)} baseline values: a paired difference needs the same tasks")
    return a - b


def _bounded(
    difference: Floats, design: Design, interval: tuple[float, float], bounds: tuple[float, float], level: float
) -> tuple[tuple[float, float], bool]:
    """Clip to `bounds`, after widening when few clusters depart from the most common cluster mean."""
    least, most = bounds
    if (difference < least - 1e-9).any() or (difference > most + 1e-9).any():
        raise EvalError(f"differences from {difference.min()} to {difference.max()} leave their bounds {bounds}")
    low, high = interval
    means = np.round(np.bincount(design.cluster, difference) / np.bincount(design.cluster), 12)
    seen, counts = np.unique(means, return_counts=True)
    common = float(seen[np.argmax(counts)])
    down, up = int((means < common).sum()), int((means > common).sum())
    few = down + up < FEW_DEPARTURES
    if few:
        one_sided = 0.5 + level / 2.0
        low = min(low, common - (common - least) * exact_upper(down, design.clusters, one_sided))
        high = max(high, common + (most - common) * exact_upper(up, design.clusters, one_sided))
        if design.clusters == 1:
            low, high = least, most
    return (max(low, least), min(high, most)), few

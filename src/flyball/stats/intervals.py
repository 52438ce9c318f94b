"""Means, shares, quantiles and ratios with intervals that follow the sampling design.

Every function takes one value per unit with optional `clusters` and `strata` labels (see `design.py`) and returns an
Estimate whose `method` says how the interval was made. Rules where the data alone would claim too much:

- a share is Wilson's interval at the effective size p (1 - p) / variance, never above the number seen (Korn and
  Graubard 1998); when nothing or everything succeeded the effective size is the number of clusters. Simulated
  with 30 clusters of 5 (intraclass correlation 0.2 to 0.3) it covers 95 % at a share of 0.75 and 91 to 92 % at 0.95;
- a mean from one cluster is unbounded on both sides: one draw shows no spread;
- a mean of 0/1 values that are all equal is treated as a share. Other values that are all equal give a zero-width
  interval with the method `no spread seen`: nothing bounds what was not seen;
- a ratio is Fieller's interval, open above when the denominator cannot be told from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from flyball.errors import EvalError
from flyball.stats.binomial import exact_upper, normal_quantile, wilson_bounds
from flyball.stats.design import Design, Floats, Labels, Spread, as_values, check_level
from flyball.types import Estimate

Values = Sequence[float] | Floats


def t_quantile(level: float, df: float) -> float:
    """t for a two-sided interval; 2.776 at 0.95 with 4 degrees of freedom."""
    return float(stdtrit(max(df, 1.0), 0.5 + check_level(level) / 2.0))


def mean_interval(
    values: Values, *, clusters: Labels = None, strata: Labels = None, level: float = 0.95, unit: str = ""
) -> Estimate:
    """Mean over units with a t interval. For yes-or-no values prefer `proportion_interval`."""
    x = as_values(values)
    design = Design.of(len(x), clusters, strata)
    mean, spread = float(x.mean()), design.spread(design.residuals(x) / design.n)
    if spread.variance == 0.0 and np.isin(x, (0.0, 1.0)).all():
        return share_interval(mean, spread, design, cap=design.n, level=level, unit=unit)
    if design.clusters == 1:
        return Estimate(mean, -math.inf, math.inf, design.n, 1, level, unit, "one cluster: no spread to measure")
    half = t_quantile(level, spread.df) * math.sqrt(spread.variance)
    method = f"t({spread.df:.0f})" if half else "no spread seen"
    return Estimate(mean, mean - half, mean + half, design.n, design.clusters, level, unit, method)


def proportion_interval(
    values: Values, *, clusters: Labels = None, strata: Labels = None, level: float = 0.95, unit: str = "share"
) -> Estimate:
    """Mean of values in [0, 1], such as successes; plain Wilson when no two 0/1 values share a cluster."""
    return rate_interval(values, clusters=clusters, strata=strata, level=level, unit=unit)


def rate_interval(
    events: Values,
    trials: Values | None = None,
    *,
    clusters: Labels = None,
    strata: Labels = None,
    level: float = 0.95,
    unit: str = "share",
) -> Estimate:
    """Events over trials, such as tool errors over tool calls; one pair per unit, 0 <= events <= trials.

    `n` of the result is the number of trials. Raises EvalError when there was no trial at all.
    """
    e = as_values(events, "events")
    t = np.ones(len(e)) if trials is None else as_values(trials, "trials")
    if len(t) != len(e) or (e < 0).any() or (e > t).any():
        raise EvalError("a rate needs as many trials as events, and 0 <= events <= trials in every unit")
    total = float(t.sum())
    if total == 0.0:
        raise EvalError("no trials in any unit: the rate has no value; leave the number out and say so")
    design = Design.of(len(e), clusters, strata)
    share = float(e.sum() / total)
    if design.clusters == design.n and (t <= 1.0).all() and np.isin(e, (0.0, 1.0)).all():
        low, high = wilson_bounds(share, total, normal_quantile(level))
        return Estimate(share, low, high, int(total), int(total), level, unit, "Wilson")
    spread = design.spread(design.residuals(e, t) / total)
    return share_interval(share, spread, design, cap=total, level=level, unit=unit)


def share_interval(
    share: float, spread: Spread, design: Design, *, cap: float, level: float = 0.95, unit: str = "share"
) -> Estimate:
    """Wilson's interval of a share in [0, 1] whose variance is known: at its effective size, at most `cap`."""
    z = normal_quantile(level)
    size = float(min(design.clusters, cap))
    if spread.variance > 0.0 and 0.0 < share < 1.0:
        size = share * (1.0 - share) / spread.variance * (z / t_quantile(level, spread.df)) ** 2
    size = min(size, cap)
    low, high = wilson_bounds(share, size, z)
    method = f"Wilson, effective n {size:.0f}"
    return Estimate(share, low, high, round(cap), design.clusters, level, unit, method)


def quantile_interval(
    values: Values, q: float, *, clusters: Labels = None, strata: Labels = None, level: float = 0.95, unit: str = ""
) -> Estimate:
    """The q-quantile (an observed value) with Woodruff's interval; `high` is infinite when n cannot bound it."""
    x = as_values(values)
    if not 0.0 < q < 1.0:
        raise EvalError(f"quantile {q} is outside 0 to 1; write 0.95 for the 95th percentile")
    ordered, n = np.sort(x), len(x)
    value = float(ordered[math.ceil(q * n) - 1])
    design = Design.of(n, clusters, strata)
    below = (x <= value).astype(np.float64)
    spread = design.spread(design.residuals(below) / n)
    share = float(below.mean())
    size = float(design.clusters)
    if spread.variance > 0.0 and share < 1.0:
        size = min(float(n), share * (1.0 - share) / spread.variance)
    low, high = wilson_bounds(q, size, normal_quantile(level))
    first, last = math.floor(low * n), math.ceil(high * n) + 1
    return Estimate(
        value,
        float(ordered[first - 1]) if first >= 1 else -math.inf,
        float(ordered[last - 1]) if last <= n else math.inf,
        n,
        design.clusters,
        level,
        unit,
        f"Woodruff, effective n {size:.0f}",
    )


def ratio_interval(
    numerators: Values,
    denominators: Values,
    *,
    clusters: Labels = None,
    strata: Labels = None,
    level: float = 0.95,
    unit: str = "",
) -> Estimate:
    """Sum of numerators over sum of denominators, both >= 0, such as cost per success.

    Without one success the value is infinite and `low` is the mean cost over the exact upper bound of the success
    rate; when every unit succeeded, `high` allows for the Wilson lower bound of it.
    """
    top, bottom = as_values(numerators, "numerators"), as_values(denominators, "denominators")
    if len(top) != len(bottom) or (top < 0).any() or (bottom < 0).any():
        raise EvalError("a ratio needs one numerator and one denominator per unit, none of them negative")
    design = Design.of(len(top), clusters, strata)
    n, c = design.n, design.clusters
    if not bottom.any():
        low = float(top.mean()) / exact_upper(0, c, 0.5 + level / 2.0)
        return Estimate(math.inf, low, math.inf, n, c, level, unit, "no success: exact bound")
    value = float(top.sum() / bottom.sum())
    if c == 1:
        return Estimate(value, 0.0, math.inf, n, 1, level, unit, "one cluster: no spread to measure")
    low, high = _fieller(top / n, bottom / n, design, level)
    if (bottom == 1.0).all():
        high /= wilson_bounds(1.0, c, normal_quantile(level))[0]
    return Estimate(value, low, high, n, c, level, unit, "Fieller")


def _fieller(top: Floats, bottom: Floats, design: Design, level: float) -> tuple[float, float]:
    """Ratios r >= 0 for which sum(top) - r sum(bottom) is within t standard errors of 0."""
    rest_top, rest_bottom = design.residuals(top), design.residuals(bottom)
    v_top, v_bottom = design.spread(rest_top), design.spread(rest_bottom)
    # covariance by polarisation, so that strata and clusters are handled in one place
    covariance = (design.spread(rest_top + rest_bottom).variance - v_top.variance - v_bottom.variance) / 2.0
    ratio = float(top.sum() / bottom.sum())
    t2 = t_quantile(level, design.spread(rest_top - ratio * rest_bottom).df) ** 2
    a = float(bottom.sum()) ** 2 - t2 * v_bottom.variance
    b = float(top.sum() * bottom.sum()) - t2 * covariance
    c = float(top.sum()) ** 2 - t2 * v_top.variance
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0.0:
        return max(0.0, (b - root) / a), (b + root) / a
    # the denominator may be 0: everything above the positive root is possible
    return (max(0.0, c / (b + root)) if b + root > 0.0 else 0.0), math.inf

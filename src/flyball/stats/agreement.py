"""Agreement between two raters and correlation between two scores, with intervals that follow the sampling design.

Both are smooth functions of means, so their variance is that of their influence values (the delta method), summed by
clusters as everywhere (`design.py`). Without clusters the one of kappa is the large-sample variance of Fleiss, Cohen
and Everitt (1969), Psychological Bulletin 72(5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flyball.errors import EvalError
from flyball.stats.binomial import exact_upper
from flyball.stats.design import Design, Labels, as_values
from flyball.stats.intervals import Values, t_quantile
from flyball.types import Estimate


def cohen_kappa(
    first: Sequence[Any], second: Sequence[Any], *, clusters: Labels = None, level: float = 0.95
) -> Estimate:
    """Agreement beyond chance of two raters of the same units, (p_o - p_e) / (1 - p_e).

    Raises EvalError when the lists differ in length or everything got one label from both, so that chance agrees too.
    """
    if len(first) != len(second) or not first:
        raise EvalError(
            f"{len(first)} and {len(second)} ratings: kappa needs two ratings of each unit, at least one unit"
        )
    labels = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    a = np.eye(len(labels))[[labels[one] for one in first]]  # [n, labels]
    b = np.eye(len(labels))[[labels[one] for one in second]]
    p, q = a.mean(axis=0), b.mean(axis=0)
    expected = float(p @ q)
    if math.isclose(expected, 1.0):
        raise EvalError("everything got one label from both raters: chance agrees as well, so kappa has no value")
    agree = (a * b).sum(axis=1)
    observed = float(agree.mean())
    kappa = (observed - expected) / (1.0 - expected)
    chance = a @ q + b @ p - 2.0 * expected
    influence = ((agree - observed) * (1.0 - expected) - (1.0 - observed) * chance) / (1.0 - expected) ** 2
    design = Design.of(len(agree), clusters)
    if design.clusters == 1:
        return Estimate(kappa, -1.0, 1.0, design.n, 1, level, "kappa", "one cluster: no spread to measure")
    spread = design.spread(influence / design.n)
    if spread.variance == 0.0:
        # nothing differed, or everything: what was not seen is bounded by the share that may still differ
        low = kappa - (1.0 + kappa) * exact_upper(0, design.clusters, 0.5 + level / 2.0)
        return Estimate(kappa, max(-1.0, low), 1.0, design.n, design.clusters, level, "kappa", "no spread seen")
    half = t_quantile(level, spread.df) * math.sqrt(spread.variance)
    low, high = max(-1.0, kappa - half), min(1.0, kappa + half)
    return Estimate(kappa, low, high, design.n, design.clusters, level, "kappa", f"delta method, t({spread.df:.0f})")


def correlation(x: Values, y: Values, *, clusters: Labels = None, level: float = 0.95) -> Estimate:
    """Pearson's correlation, point-biserial when one side is 0/1; the interval is symmetric on Fisher's scale.

    Raises EvalError when either side never varies.
    """
    first, second = as_values(x, "x"), as_values(y, "y")
    if len(first) != len(second):
        raise EvalError(f"{len(first)} and {len(second)} values: a correlation needs pairs")
    if not first.std() or not second.std():
        raise EvalError("one side never varies, so nothing can go along with it; leave the correlation out and say so")
    zx, zy = (first - first.mean()) / first.std(), (second - second.mean()) / second.std()
    r = min(1.0, max(-1.0, float((zx * zy).mean())))
    design = Design.of(len(zx), clusters)
    if design.clusters < 4 or abs(r) > 1 - 1e-12:
        low, high = (r, r) if design.clusters >= 4 else (-1.0, 1.0)
        method = "on a line" if design.clusters >= 4 else "fewer than four clusters"
        return Estimate(r, low, high, design.n, design.clusters, level, "correlation", method)
    influence = zx * zy - r * (zx**2 + zy**2) / 2.0
    spread = design.spread(influence / design.n)
    half = t_quantile(level, spread.df) * math.sqrt(spread.variance) / (1.0 - r * r)
    low, high = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return Estimate(r, low, high, design.n, design.clusters, level, "correlation", f"Fisher z, t({spread.df:.0f})")

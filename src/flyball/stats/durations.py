"""Is the canary slower? The typical case and the tail, in one sequence of paired blocks.

A mean of seconds is ruled by a few hangs and a quantile needs many, so there are two views. Both compare the canary
with `ratio` times the holdback (1.15: a tolerance of 15 %).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flyball.errors import EvalError
from flyball.stats.betting import log_evidence
from flyball.stats.design import Floats

QUANTILES = (0.5, 0.9, 0.95, 0.99)
WARM_UP = 20
"""Holdback values that must be known before a quantile of them is bet on."""


def slowdown_bound(log_ratios: Floats, alpha: float, *, tight_at: int = 500) -> Floats:
    """Lower bound, [n], on the mean of log(canary) - log(holdback), valid at all n together with error `alpha`.

    Asymptotic: it leans on the central limit theorem at every n, so it is infinite below 50 blocks. `tight_at`: the
    number of blocks at which it is narrowest.
    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2103.06476, one-sided form of theorem 2.2.
    """
    n = np.arange(1, len(log_ratios) + 1, dtype=np.float64)
    mean = np.cumsum(log_ratios) / n
    variance = np.maximum(np.cumsum(np.square(log_ratios)) / n - np.square(mean), 0.0)
    scale = -2.0 * math.log(2.0 * alpha)
    rho = (scale + math.log(scale + 1.0)) / tight_at
    spread = n * rho + 1.0
    half = np.sqrt(variance * 2.0 * spread / (n * n * rho) * np.log1p(np.sqrt(spread) / (2.0 * alpha)))
    return np.where(n < 50, -np.inf, mean - half)


def log_tail_evidence(canary: Sequence[Floats], holdback: Sequence[Floats], ratio: float) -> Floats:
    """log E_t, [n] over blocks, against "the canary is stochastically at most `ratio` times the holdback".

    For a threshold T known before the block, x = share of the canary above T - share of ratio x holdback above T has
    a mean of at most 0 then. T is `ratio` times a quantile of the holdback's past, for the quantiles 50, 90, 95, 99 %;
    their evidence is averaged. The quantiles are renewed whenever the past has grown by a tenth: often enough, and a
    replay of 100,000 blocks stays a matter of seconds.
    """
    if len(canary) != len(holdback):
        raise EvalError(f"{len(canary)} canary and {len(holdback)} holdback blocks; a block needs both arms")
    differences = np.zeros((len(canary), len(QUANTILES)))
    past: list[float] = []
    thresholds: Floats | None = None
    renew_at = WARM_UP
    for block, (new, old) in enumerate(zip(canary, holdback, strict=True)):
        if len(past) >= renew_at:
            thresholds, renew_at = ratio * np.quantile(past, QUANTILES), math.ceil(1.1 * len(past))
        if thresholds is not None:
            above, expected = new[:, None] > thresholds, ratio * old[:, None] > thresholds
            differences[block] = above.mean(axis=0) - expected.mean(axis=0)
        past.extend(old)
    evidence = [log_evidence(column, threshold=0.0, low=-1.0) for column in differences.T]
    mixed: Floats = np.logaddexp.reduce(np.stack(evidence), axis=0) - math.log(len(QUANTILES))
    return mixed

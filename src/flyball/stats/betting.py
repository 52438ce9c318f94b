"""Tests by betting: evidence that may be looked at after every observation, for as long as one likes.

A gambler who bets on "the mean is above the threshold" cannot expect to grow rich while it is not. With the share
lambda of the stake on an observation x, the stake is multiplied by 1 + lambda (x - m); a mean of several gamblers is
one more gambler. Under the null E[x_t | past] <= m the stake E_t is a non-negative supermartingale that starts at 1, so
by Ville's inequality

    P(ever E_t >= 1 / alpha) <= alpha        for every stopping rule, every number of looks and any horizon.

Nothing is assumed of the observations but their lower bound: no normality, no common variance, no independence beyond
what the null says of the next one. Evidence is kept as a logarithm, since the stake of a clear case overflows.

Source: Waudby-Smith and Ramdas 2010.09686, section 4 (the betting martingale; a fixed mixture over bets instead of
their plug-in bets, which were slightly worse here); Ville 1939; Shekhar and Ramdas 2309.09111 (change detection).
"""

from __future__ import annotations

import math

import numpy as np

from flyball.errors import EvalError
from flyball.stats.design import Floats, as_values, check_level
from flyball.stats.intervals import Values
from flyball.types import Estimate

NUM_BETS = 20
BOLDEST = 0.95
"""The largest share of the stake that any gambler can lose on one observation."""


def log_evidence(values: Values, *, threshold: float, low: float) -> Floats:
    """log E_t after each of the observations, [n], against the null "the mean is at most `threshold`".

    `low` is the least value that an observation can take. Bets lambda_k = 0.95 k / (K + 1) / (threshold - low), K = 20,
    are mixed evenly. Raises EvalError for a value below `low`, or a threshold that is not above it.
    """
    stakes = np.cumsum(_log_steps(values, threshold, low), axis=0)
    mixed: Floats = np.logaddexp.reduce(stakes, axis=1) - math.log(NUM_BETS)
    return mixed


def log_change_evidence(values: Values, *, threshold: float, low: float) -> Floats:
    """log M_t after each observation, [n]: evidence that the mean has risen above `threshold` at some time so far.

    M_t = L_t (M_{t-1} + 1) per bet, with L_t its multiplier: a new gambler enters at every observation. While there is
    no change the average run length to an alarm at M_t >= 1 / alpha is at least 1 / alpha observations.
    """
    grown = np.cumsum(_log_steps(values, threshold, low), axis=0)
    before = np.vstack([np.zeros((1, NUM_BETS)), grown[:-1]])
    mixed: Floats = np.logaddexp.reduce(grown + np.logaddexp.accumulate(-before, axis=0), axis=1) - math.log(NUM_BETS)
    return mixed


def first_rejection(log_values: Floats, alpha: float) -> int | None:
    """The index of the first observation at which the evidence reaches 1 / alpha, or None."""
    if not 0.0 < alpha < 1.0:
        raise EvalError(f"alpha {alpha} is outside 0 to 1; write 0.01 for 1 %")
    reached = log_values >= -math.log(alpha)
    return int(np.argmax(reached)) if reached.any() else None


def interval_at_any_time(values: Values, *, low: float, high: float, level: float = 0.95, unit: str = "") -> Estimate:
    """Mean of bounded observations with an interval that holds at all n together: the thresholds not yet rejected.

    A t interval that is looked at after every session is wrong far more often than it says; this one is not. Raises
    EvalError for a value outside `low` to `high`.
    """
    x = as_values(values)
    if x.max() > high + 1e-12:
        raise EvalError(f"a value of {x.max()} is above the bound {high}")
    limit = math.log(2.0 / (1.0 - check_level(level)))
    lower = _least_threshold(x, low, high, limit)
    upper = -_least_threshold(-x, -high, -low, limit)
    return Estimate(float(x.mean()), lower, upper, len(x), len(x), level, unit, "betting, valid at any time")


def _least_threshold(x: Floats, low: float, high: float, limit: float) -> float:
    """The largest threshold that is rejected in favour of a higher mean; evidence falls as the threshold rises."""
    seen, counts = np.unique(x, return_counts=True)  # the last stake does not depend on the order of the bets
    rejected, kept = low, high
    for _ in range(20):
        middle = (rejected + kept) / 2.0
        stakes = counts @ _log_steps(seen, middle, low)
        if np.logaddexp.reduce(stakes) - math.log(NUM_BETS) >= limit:
            rejected = middle
        else:
            kept = middle
    return rejected


def _log_steps(values: Values, threshold: float, low: float) -> Floats:
    """log(1 + lambda_k (x_t - m)), [n, K]. No observation is no evidence, so n = 0 is allowed."""
    x = np.asarray(values, np.float64)
    if threshold <= low:
        raise EvalError(
            f"threshold {threshold} is not above {low}, the least value there is: the null is false before any "
            "observation. Choose a threshold inside the range"
        )
    if x.ndim != 1 or not (x >= low - 1e-12).all():  # NaN fails the comparison too
        raise EvalError(f"values of shape {x.shape} with minimum {x.min() if x.size else None} leave the bound {low}")
    bets = BOLDEST * np.arange(1, NUM_BETS + 1) / (NUM_BETS + 1) / (threshold - low)
    steps: Floats = np.log1p(bets * (np.maximum(x, low)[:, None] - threshold))
    return steps

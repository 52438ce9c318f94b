"""Whether a probability means what it says: expected calibration error, Brier score, the curve behind them.

ECE is the mean over bins of |share that came true - mean claim|, weighted by bin. It is never negative and rises with
noise, so its interval is a bootstrap over clusters and is read with n. Bins hold equal numbers of units below 1,000
units, where equal widths would leave bins nearly empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from flyball.errors import EvalError
from flyball.stats.design import Design, Floats, Ints, Labels, as_values
from flyball.stats.intervals import Values, mean_interval, proportion_interval
from flyball.types import Estimate

NUM_BINS = 10
EQUAL_MASS_BELOW = 1000
RESAMPLES = 1000


def expected_calibration_error(
    claimed: Values,
    came_true: Values,
    *,
    clusters: Labels = None,
    equal_mass: bool | None = None,
    level: float = 0.95,
) -> Estimate:
    """ECE over ten bins. `equal_mass` None = by n. Raises EvalError for claims outside [0, 1] or outcomes not 0/1."""
    claim, truth = _checked(claimed, came_true)
    equal_mass = len(claim) < EQUAL_MASS_BELOW if equal_mass is None else equal_mass
    value = _ece(claim, truth, equal_mass)
    design = Design.of(len(claim), clusters)
    if design.clusters == 1:
        return Estimate(value, 0.0, 1.0, design.n, 1, level, "share", "one cluster: no spread to measure")
    draws = np.random.default_rng(0)  # the same data give the same interval
    members = [np.flatnonzero(design.cluster == i) for i in range(design.clusters)]
    resampled = []
    for _ in range(RESAMPLES):
        drawn: Ints = np.concatenate([members[i] for i in draws.integers(0, design.clusters, design.clusters)])
        resampled.append(_ece(claim[drawn], truth[drawn], equal_mass))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    method = f"cluster bootstrap, {RESAMPLES}"
    return Estimate(
        value, min(value, float(low)), max(value, float(high)), design.n, design.clusters, level, "share", method
    )


def brier_score(claimed: Values, came_true: Values, *, clusters: Labels = None, level: float = 0.95) -> Estimate:
    """Mean squared difference between claim and outcome, 0 the best."""
    claim, truth = _checked(claimed, came_true)
    return mean_interval((claim - truth) ** 2, clusters=clusters, level=level)


@dataclass(frozen=True)
class Bin:
    """Units whose claims lie together: their mean claim, and the share that came true with its interval."""

    claimed: float
    came_true: Estimate


def reliability_curve(
    claimed: Values, came_true: Values, *, clusters: Labels = None, level: float = 0.95
) -> tuple[Bin, ...]:
    """The bins behind the calibration error, empty ones left out: on the diagonal a claim means what it says."""
    claim, truth = _checked(claimed, came_true)
    bins = _bins(claim, len(claim) < EQUAL_MASS_BELOW)
    labels = np.arange(len(claim)) if clusters is None else np.asarray(clusters)
    found = [np.flatnonzero(bins == i) for i in range(NUM_BINS)]
    return tuple(
        Bin(float(claim[rows].mean()), proportion_interval(truth[rows], clusters=labels[rows].tolist(), level=level))
        for rows in found
        if len(rows)
    )


def fit_temperature(logits: Values, came_true: Values) -> float:
    """The T > 0 under which s(logit / T) explains the outcomes best (least negative log-likelihood).

    Guo et al., arXiv 1706.04599, section 4.2. Searched between 1/100 and 100: outcomes that every logit foretells would
    take it to 0.
    """
    f, truth = as_values(logits, "logits"), as_values(came_true, "came_true")
    if len(f) != len(truth) or not np.isin(truth, (0.0, 1.0)).all():
        raise EvalError("a temperature needs one logit for every outcome, and outcomes that are 0 or 1")
    sign = np.where(truth == 1.0, -1.0, 1.0)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0.0, sign * f / math.exp(log_t)).mean())

    return math.exp(minimize_scalar(loss, bounds=(-math.log(100), math.log(100)), method="bounded").x)


def _ece(claim: Floats, truth: Floats, equal_mass: bool) -> float:
    bins = _bins(claim, equal_mass)
    gaps = np.bincount(bins, weights=truth - claim, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(claim))


def _bins(claim: Floats, equal_mass: bool) -> Ints:
    return _equal_mass(claim) if equal_mass else np.minimum((claim * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def _equal_mass(claim: Floats) -> Ints:
    """Bins of equal number; equal claims share a bin."""
    edges = np.quantile(claim, np.arange(1, NUM_BINS) / NUM_BINS)
    return np.searchsorted(np.unique(edges), claim, side="left").astype(np.int64)


def _checked(claimed: Values, came_true: Values) -> tuple[Floats, Floats]:
    claim, truth = as_values(claimed, "claimed"), as_values(came_true, "came_true")
    if len(claim) != len(truth) or ((claim < 0) | (claim > 1)).any() or not np.isin(truth, (0.0, 1.0)).all():
        raise EvalError("calibration needs one claim in [0, 1] for every outcome, and outcomes that are 0 or 1")
    return claim, truth

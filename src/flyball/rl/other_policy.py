"""Data that another policy made, weighed by how likely the policy at hand would have made it.

    w_i = pi(y_i) / mu(y_i), scaled to a mean of 1         effective size = (sum w)^2 / sum w^2

pi(y) and mu(y) are products over the tokens an attempt sampled. A few attempts with large weights say no more than
themselves, however many there are: the effective size is how many of the policy's own attempts they are worth (Kish),
and below a floor they are refused. Weights are not truncated: a bound would hide what the size shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError

FLOOR = 0.1
"""Least effective size, as a share of the attempts."""


@dataclass(frozen=True)
class Reweighted:
    """`weights` [A] with a mean of 1, and how many own attempts they are worth."""

    weights: npt.NDArray[np.float64]
    effective: float


def importance_weights(log_ratios: Sequence[float] | npt.NDArray[np.float64], floor: float = FLOOR) -> Reweighted:
    """Weights from log pi - log mu of whole attempts [A].

    Raises TrainError when there are none, when one is not finite, or when their effective size is below `floor` of A.
    """
    logs = np.asarray(log_ratios, np.float64)
    if not len(logs) or not np.isfinite(logs).all():
        raise TrainError(f"importance weights need finite log-ratios of at least one attempt; got {logs[:5]}")
    weights = np.exp(logs - logs.max())
    weights *= len(weights) / weights.sum()
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    if effective < floor * len(weights):
        raise TrainError(
            f"{len(weights)} attempts of another policy are worth {effective:.1f} of this one, below {floor:.0%}: it "
            "would hardly have made them; sample attempts of its own, or begin from the policy that made these"
        )
    return Reweighted(weights, effective)

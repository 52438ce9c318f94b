"""Two arms counted as they come: is the split as drawn, and does one arm have more than its share of rare events?

Both tests look at a sequence of arms (True = the canary's turn) and are valid at every look, like those of `betting`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from flyball.errors import EvalError
from flyball.stats.design import Floats

PRIOR_UNITS = 100.0
"""How strongly the alternative of `log_split_evidence` gathers round the drawn share: a spread of about 5 points."""

NUM_SHARES = 20

Arms = npt.NDArray[np.bool_]


def log_split_evidence(canary: Arms, share: float = 0.5) -> Floats:
    """log E_t, [n], against "units fall to the canary with probability `share`": sample-ratio mismatch.

    Marginal likelihood under Beta(a share, a (1 - share)), a = 100, over the likelihood at `share`.
    Source: Lindon and Malek 2011.03567, equation 2, for two arms.
    """
    if not 0.0 < share < 1.0:
        raise EvalError(f"share {share} is outside 0 to 1; write 0.5 for equal arms")
    hits = np.cumsum(canary, dtype=np.float64)
    misses = np.arange(1, len(canary) + 1) - hits
    a, b = PRIOR_UNITS * share, PRIOR_UNITS * (1.0 - share)
    marginal = betaln(a + hits, b + misses) - betaln(a, b)
    found: Floats = marginal - hits * np.log(share) - misses * np.log1p(-share)
    return found


def log_excess_evidence(canary: Arms, *, exposure: float = 0.5, ratio: float = 1.0) -> Floats:
    """log E_t, [n], over rare events in order (True: it happened in the canary), against "at most `ratio` times the
    holdback's rate".

    An event then lies in the canary with probability at most q0 = exposure ratio / (exposure ratio + 1 - exposure).
    Likelihood ratios against q0 are mixed evenly over 20 shares between q0 and 1; each is a supermartingale for every
    probability up to q0.
    """
    if not 0.0 < exposure < 1.0 or ratio <= 0.0:
        raise EvalError(f"exposure {exposure}, ratio {ratio}: exposure lies between 0 and 1, the ratio above 0")
    limit = exposure * ratio / (exposure * ratio + 1.0 - exposure)
    shares = limit + (1.0 - limit) * (np.arange(NUM_SHARES) + 0.5) / NUM_SHARES
    inside, outside = np.log(shares / limit), np.log((1.0 - shares) / (1.0 - limit))
    steps = np.where(np.asarray(canary, bool)[:, None], inside, outside)
    found: Floats = np.logaddexp.reduce(np.cumsum(steps, axis=0), axis=1) - np.log(NUM_SHARES)
    return found

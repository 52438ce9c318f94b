"""How many tasks a decision needs, and what a suite of a given size can show.

Source: Miller 2411.00640, section 5: n = (z_{a/2} + z_b)^2 (w^2 + s_A^2 / K_A + s_B^2 / K_B) / delta^2.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from flyball.errors import EvalError
from flyball.stats.binomial import normal_quantile
from flyball.types import Estimate


def tasks_needed(
    delta: float, *, between: float, within: float = 0.0, num_trials: int = 1, level: float = 0.95, power: float = 0.8
) -> int:
    """Tasks to show a paired difference `delta`.

    `between`: variance over tasks of the true difference; `within`: variance of one trial, both arms summed.
    """
    if delta == 0.0:
        raise EvalError("delta 0: no number of tasks shows a difference of nothing; name the difference that matters")
    return math.ceil(_spread(level, power) ** 2 * (between + within / num_trials) / delta**2)


def detectable_difference(
    n: int, *, between: float, within: float = 0.0, num_trials: int = 1, level: float = 0.95, power: float = 0.8
) -> float:
    """The smallest true difference that n tasks show with this power; the inverse of `tasks_needed`."""
    if n < 1:
        raise EvalError(f"n={n}: at least one task is needed")
    return _spread(level, power) * math.sqrt((between + within / num_trials) / n)


def more_needed(estimate: Estimate, threshold: float = 0.0, power: float = 0.8) -> int | None:
    """How many more units of the same kind until the interval would leave `threshold` to one side.

    Assumes that the observed value is true and asks for `power` under it; at least 1. None when the observed value
    lies on the threshold or the interval is unbounded: no number can then be promised.
    """
    gap = abs(estimate.value - threshold)
    half = (estimate.high - estimate.low) / 2.0
    if gap == 0.0 or not math.isfinite(half) or not math.isfinite(gap):
        return None
    z = normal_quantile(estimate.level)
    needed = estimate.n * (half / gap * (z + float(ndtri(power))) / z) ** 2
    return max(1, math.ceil(needed) - estimate.n)


def _spread(level: float, power: float) -> float:
    if not 0.0 < power < 1.0:
        raise EvalError(f"power {power} is outside 0 to 1; write 0.8 for 80 %")
    return normal_quantile(level) + float(ndtri(power))

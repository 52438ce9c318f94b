"""Are turn rewards worth having?  Iterative reward calibration, arXiv 2604.02869.

Turns are sorted into kinds (a gold call, a read, an error ...). A kind is worth the reward that its correlation with
success earns it; whether the rewards then push the right way is read from the mean advantage of each kind. Calibrate on
real attempts, train, calibrate again: what a kind says about success changes with the policy. Correlation is no cause:
long attempts hold more of everything, so give shares of turns rather than occurrences where lengths differ.
`flyball doctor` does so with the rewards of a workflow's `turn_reward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError

Floats = npt.NDArray[np.float64]


def point_biserial(occurs: Floats, success: Floats) -> float:
    """Pearson correlation with a variable of 0 and 1; 0 where either does not vary. Both [N]."""
    if len(occurs) != len(success):
        raise TrainError(f"{len(occurs)} attempts of a kind and {len(success)} outcomes; give one of each per attempt")
    x, y = np.asarray(occurs, np.float64), np.asarray(success, np.float64)
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


@dataclass(frozen=True)
class Calibration:
    """One kind of turn: how it goes with success, the reward that follows, and what its advantage does."""

    kind: str
    correlation: float
    reward: float
    mean_advantage: float | None
    agrees: bool


def calibrate(
    kinds: Mapping[str, Floats],
    success: Floats,
    advantages: Mapping[str, Sequence[float]],
    *,
    threshold: float = 0.1,
    scale: float = 1.0,
) -> list[Calibration]:
    """r_c = a rho_c where |rho_c| > delta, else 0, and whether the mean advantage of the kind has the sign of r_c.

    `kinds`: kind -> [N], how often (or 1: whether) it occurs in each attempt. `advantages`: kind -> of its calls.
    A kind that earns 0 agrees with whatever its advantage is; one without calls has no advantage and agrees with none.
    """
    rows = []
    for kind, occurs in kinds.items():
        rho = point_biserial(occurs, success)
        reward = scale * rho if abs(rho) > threshold else 0.0
        seen = advantages.get(kind, ())
        mean = float(np.mean(seen)) if len(seen) else None
        agrees = reward == 0 or (mean is not None and np.sign(mean) == np.sign(reward))
        rows.append(Calibration(kind, rho, reward, mean, bool(agrees)))
    return rows

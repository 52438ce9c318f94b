"""Which tasks to roll out next: skip those that taught nothing, lean to those that teach most, keep what needs tools.

A visit of a task is a zero-variance one when no advantage of its group differs from 0 (`advantage.has_signal`). Pure:
who calls keeps the history, by task id, and the values.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError

Floats = npt.NDArray[np.float64]

KEEP_BOUNDS = (0.05, 0.95)
KEEP_STEP = 0.01


def skip_chance(zero_variance_run: int, keep: float, floor: float = 0.01) -> float:
    """1 - max(p^z, floor) for a task whose last z visits were zero-variance ones; 0 at z = 0.  GRESO, 2506.02177.

    `keep` p is one number for tasks that were all solved and one for those never solved; the floor lets all come back.
    """
    return 0.0 if zero_variance_run == 0 else 1 - max(keep**zero_variance_run, floor)


def adapted_keep(keep: float, zero_variance_share: float, target: float) -> float:
    """p - 0.01 where the share seen is at its target or above (skip more), else p + 0.01; inside [0.05, 0.95]."""
    moved = keep - KEEP_STEP if zero_variance_share >= target else keep + KEEP_STEP
    return min(max(moved, KEEP_BOUNDS[0]), KEEP_BOUNDS[1])


def groups_to_request(missing: int, zero_variance_share: float, least: int = 64, most: int = 384) -> int:
    """missing/(1 - share) x 1.25, inside [least, most]: how many groups fill what a batch still lacks.  GRESO."""
    if not 0 <= zero_variance_share <= 1:
        raise TrainError(f"a share of zero-variance groups is {zero_variance_share}; it lies between 0 and 1")
    wanted = math.inf if zero_variance_share == 1 else missing / (1 - zero_variance_share) * 1.25
    return int(min(max(math.ceil(min(wanted, most)), least), most))


def learned_values(values: Floats, rewards: Floats, rate: float = 0.5) -> Floats:
    """Q <- (1-a) Q + a r, r the mean |A| of a family in the batch; NaN = not in the batch, Q stays.  SEC, 2505.14970.

    The paper's text; its released code lets the Q of absent families decay. Both [families].
    """
    if len(values) != len(rewards):
        raise TrainError(f"{len(values)} families and {len(rewards)} rewards; give one (or NaN) for each")
    return np.where(np.isnan(rewards), values, (1 - rate) * values + rate * np.nan_to_num(rewards))


def family_chances(values: Floats, temperature: float, floor: float = 0.0) -> Floats:
    """softmax(Q / tau), and at least `floor` for each family.  SEC, 2505.14970."""
    if not 0 <= floor * len(values) <= 1 or temperature <= 0:
        raise TrainError(f"{len(values)} families cannot each have {floor} at temperature {temperature}")
    e = np.exp((values - values.max()) / temperature)
    chances: Floats = floor + (1 - floor * len(values)) * e / e.sum()
    return chances


def needs_tools(
    with_tools: float, without_tools: float, gain: float = 0.2, least_with: float = 0.5, most_without: float = 0.5
) -> bool:
    """s_with - s_without > t1, s_with > t2 and s_without < t3.  LongCat-Flash-Thinking, 2509.18883; thresholds ours."""
    return with_tools - without_tools > gain and with_tools > least_with and without_tools < most_without

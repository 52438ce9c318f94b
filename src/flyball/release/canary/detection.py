"""What a canary of this traffic can see, and how long it takes: published before it starts.

The table is not a formula but the procedure itself, run on simulated releases: a fair coin per unit, blocks, betting
test. (For small drops the median is near 2 sigma^2 ln(1 / alpha) / (drop - m)^2 pairs; for large ones the boldest bet
is the limit and it takes longer.) The number of failures that certainty costs does not depend on traffic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan, Unit
from flyball.stats.betting import first_rejection, log_evidence
from flyball.stats.design import Floats

DROPS = (0.05, 0.10, 0.15, 0.20, 0.30)
SHARES = (0.05, 0.10, 0.25, 0.5)
SIMULATED = 400
MOST_UNITS = 100_000
"""Per arm; a drop that takes longer is called unseen."""


@dataclass(frozen=True)
class Detection:
    """One row. `units` per arm to the rollback in the median release and in nine of ten (infinite: not within 100,000),
    `seconds` until the median with the label's delay, and the failures that the canary has caused by then beyond the
    holdback's."""

    drop: float
    units: float
    units_90: float
    seconds: float
    extra_failures: float


@dataclass(frozen=True)
class DetectionTable:
    """What a canary will see, published before it starts: `share` of `units_per_day`, where `base` is success in
    force."""

    unit: Unit
    base: float
    units_per_day: float
    share: float
    rows: tuple[Detection, ...]


def detection_table(
    plan: CanaryPlan, *, base: float, units_per_day: float, share: float, drops: Sequence[float] = DROPS
) -> tuple[Detection, ...]:
    """Rows for each drop that lies above the tolerated harm and leaves no less than nothing.

    `base`: success in force; `units_per_day`: all traffic in units of the plan (sessions or users); `share`: the
    canary's part of it. Raises ReleaseError for numbers that describe no traffic.
    """
    if not (0.0 < base < 1.0 and 0.0 < units_per_day < math.inf and 0.0 < share <= 0.5):
        raise ReleaseError(
            f"base {base:g}, {units_per_day:g} units a day, share {share:g}: success in force lies between 0 and 1, "
            "traffic is finite and above 0, and the canary's share at most 0.5"
        )
    rows = []
    for drop in drops:
        if plan.success.tolerated < drop <= base:
            median, most = _units_to_rollback(
                base, drop, plan.success.tolerated, plan.alpha("success"), plan.units_per_arm
            )
            seconds = median / (units_per_day * share) * 86_400.0 + plan.matures_after
            rows.append(Detection(drop, median, most, seconds, median * drop))
    return tuple(rows)


@lru_cache
def _units_to_rollback(base: float, drop: float, tolerated: float, alpha: float, per_arm: int) -> tuple[float, float]:
    """Median and 90 % quantile over simulated releases of the units per arm at which the success test fires."""
    candidate = base - drop
    variance = base * (1.0 - base) + candidate * (1.0 - candidate)
    ideal = 2.0 * variance * math.log(1.0 / alpha) / (drop - tolerated) ** 2
    length = math.ceil(min(6.0 * ideal + 400.0, MOST_UNITS) / per_arm)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(SIMULATED):
        canary, holdback = _arms_of_blocks(rng, length, per_arm)
        failed_c, failed_s = rng.binomial(canary, 1.0 - candidate), rng.binomial(holdback, 1.0 - base)
        block = _first_rejection(failed_c / canary - failed_s / holdback, tolerated, alpha)
        found.append(math.inf if block is None else (canary + holdback)[: block + 1].sum() / 2.0)
    median, most = np.quantile(found, [0.5, 0.9], method="inverted_cdf")
    return float(median), float(most)


def _first_rejection(harm: Floats, tolerated: float, alpha: float) -> int | None:
    """The block at which the test fires, or None. Most fire early: the start alone is looked at first."""
    for seen in (len(harm) // 8, len(harm) // 3, len(harm)):
        block = first_rejection(log_evidence(harm[:seen], threshold=tolerated, low=-1.0), alpha) if seen else None
        if block is not None:
            return block
    return None


def _arms_of_blocks(rng: np.random.Generator, n: int, per_arm: int) -> tuple[np.ndarray, np.ndarray]:
    """Units of canary and holdback in n blocks, [n] each, when a fair coin deals until both have `per_arm`."""
    at_holdback = rng.negative_binomial(per_arm, 0.5, n)  # canary units when the holdback has its share
    short = np.maximum(per_arm - at_holdback, 0)
    extra = np.where(short > 0, rng.negative_binomial(np.maximum(short, 1), 0.5), 0)
    return np.maximum(at_holdback, per_arm), per_arm + extra


def recommended_share(plan: CanaryPlan, *, base: float, units_per_day: float) -> float:
    """The smallest share of the traffic at which the owner's harm is seen within the horizon.

    Raises ReleaseError when not even half the traffic shows it in time, naming what would.
    """
    if plan.harm <= plan.success.tolerated:
        raise ReleaseError(
            f"harm {plan.harm:g} is within what is tolerated ({plan.success.tolerated:g}), so no canary would ever "
            "report it; lower the tolerated harm or name a larger one"
        )
    if 0.0 < base < plan.harm:
        raise ReleaseError(
            f"harm {plan.harm:g} is more than all the success there is ({base:g}), so no candidate could do it; name a "
            "smaller harm"
        )
    for share in SHARES:
        (row,) = detection_table(plan, base=base, units_per_day=units_per_day, share=share, drops=[plan.harm])
        if row.seconds <= plan.horizon:
            return share
    days = row.seconds / 86_400.0
    raise ReleaseError(
        f"a drop of {100 * plan.harm:g} points would be seen after {days:.3g} days with half the traffic, the horizon "
        f"is {plan.horizon / 86_400.0:.3g} days: lengthen the horizon, name a larger harm, or let more traffic in"
    )


def check_launch(plan: CanaryPlan, *, base: float, units_per_day: float) -> DetectionTable:
    """The table, with a row for the owner's harm, at the plan's first stage that can see that harm in time.

    Raises ReleaseError when none of them can.
    """
    need = recommended_share(plan, base=base, units_per_day=units_per_day)
    if plan.stages[-1] < need:
        raise ReleaseError(
            f"stages {plan.stages} never reach {100 * need:g} % of the traffic, below which "
            f"a drop of {100 * plan.harm:g} points is not seen within the horizon of {plan.horizon / 86_400:.3g} days; "
            "add a stage"
        )
    share = next(stage for stage in plan.stages if stage >= need)
    drops = sorted({*DROPS, plan.harm})
    rows = detection_table(plan, base=base, units_per_day=units_per_day, share=share, drops=drops)
    return DetectionTable(plan.unit, base, units_per_day, share, rows)

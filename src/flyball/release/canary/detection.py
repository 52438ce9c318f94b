"""What a canary of this traffic can see, and how long it takes: published before it starts.

For a drop of success `drop` beyond the tolerated harm m, the betting test needs about

    n* = 2 (p_s (1 - p_s) + p_c (1 - p_c)) ln(1 / alpha) / (drop - m)^2        pairs of one unit per arm

(median; Waudby-Smith and Ramdas 2010.09686 for the growth rate). Simulated medians lie 5 to 25 % above it
(`benchmarks/canary.py`), so the table counts a quarter more. The number of failed sessions that certainty costs, n*
times the drop, does not depend on traffic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan

DROPS = (0.05, 0.10, 0.15, 0.20, 0.30)
OVERHEAD = 1.25
SHARES = (0.05, 0.10, 0.25, 0.5)


@dataclass(frozen=True)
class Detection:
    """One row: the drop, units per arm to the median rollback, seconds until then with the label's delay, and failures
    that the canary has caused by then beyond the holdback's."""

    drop: float
    units: int
    seconds: float
    extra_failures: float


def detection_table(
    plan: CanaryPlan, *, base: float, units_per_day: float, share: float, drops: Sequence[float] = DROPS
) -> tuple[Detection, ...]:
    """Rows for each drop that lies above the tolerated harm.

    `base`: success in force; `units_per_day`: all traffic in units of the plan (sessions or users); `share`: the
    canary's part of it. Raises ReleaseError for numbers that describe no traffic.
    """
    if not 0.0 < base < 1.0 or units_per_day <= 0.0 or not 0.0 < share <= 0.5:
        raise ReleaseError(
            f"base {base:g}, {units_per_day:g} units a day, share {share:g}: success in force lies between 0 and 1, "
            "traffic above 0 and the canary's share at most 0.5"
        )
    rows = []
    for drop in drops:
        if drop <= plan.success.tolerated:
            continue
        candidate = max(base - drop, 0.0)
        variance = base * (1.0 - base) + candidate * (1.0 - candidate)
        ideal = 2.0 * variance * math.log(1.0 / plan.alpha("success")) / (drop - plan.success.tolerated) ** 2
        units = math.ceil(OVERHEAD * ideal)
        seconds = units / (units_per_day * share) * 86_400.0 + plan.matures_after
        rows.append(Detection(drop, units, seconds, units * drop))
    return tuple(rows)


def recommended_share(plan: CanaryPlan, *, base: float, units_per_day: float) -> float:
    """The smallest share of the traffic at which the owner's harm is seen within the horizon.

    Raises ReleaseError when not even half the traffic shows it in time, naming what would.
    """
    if plan.harm <= plan.success.tolerated:
        raise ReleaseError(
            f"harm {plan.harm:g} is within what is tolerated ({plan.success.tolerated:g}), so no canary would ever "
            "report it; lower the tolerated harm or name a larger one"
        )
    for share in SHARES:
        (row,) = detection_table(plan, base=base, units_per_day=units_per_day, share=share, drops=[plan.harm])
        if row.seconds <= plan.horizon:
            return share
    days = row.seconds / 86_400.0
    raise ReleaseError(
        f"a drop of {100 * plan.harm:g} points would be seen after {days:.0f} days with half the traffic, the horizon "
        f"is {plan.horizon / 86_400.0:.0f} days: lengthen the horizon, name a larger harm, or let more traffic in"
    )


def check_launch(plan: CanaryPlan, *, base: float, units_per_day: float) -> tuple[Detection, ...]:
    """The table at the plan's first stage that can see the harm in time. Raises ReleaseError when none of them can."""
    need = recommended_share(plan, base=base, units_per_day=units_per_day)
    if plan.stages[-1] < need:
        raise ReleaseError(
            f"stages {plan.stages} never reach {100 * need:g} % of the traffic, below which "
            f"a drop of {100 * plan.harm:g} points is not seen within the horizon of {plan.horizon / 86_400:.0f} days; "
            "add a stage"
        )
    share = next(stage for stage in plan.stages if stage >= need)
    return detection_table(plan, base=base, units_per_day=units_per_day, share=share)

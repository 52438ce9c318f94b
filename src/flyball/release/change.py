"""After promotion: change detection on what users now get, against how the candidate did when it was promoted.

There is no holdback any more, so the world may change as well as the policy: an alarm is a reason to look (an
incident), never a verdict. Each metric has an e-detector (`stats.betting.log_change_evidence`): while nothing is worse
than the reference by more than the plan tolerates, false alarms are on average at least 1 / alpha units apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.readings import failed_at_most
from flyball.release.canary.units import MatureUnit, ServedSession, mature
from flyball.stats.betting import first_rejection, log_change_evidence

ALPHA = 1e-5
"""Of each metric: at most one false alarm in 100,000 units, on average."""
LEAST = 1e-3
"""Rates below this are not told apart."""

WATCHED: Mapping[str, tuple[Callable[[MatureUnit], float], Callable[[CanaryPlan], float]]] = {
    "success": (failed_at_most, lambda plan: plan.success.tolerated),
    "human_override": (lambda unit: unit.override, lambda plan: plan.human_override.tolerated),
    "tool_error": (lambda unit: unit.tool_error, lambda plan: plan.tool_error.tolerated),
    "missing_label": (lambda unit: unit.missing, lambda plan: plan.success.tolerated),
}
"""What is watched (a rate in which more is worse), and how much more than the reference is tolerated."""


@dataclass(frozen=True)
class Alarm:
    """`metric` rose above `reference` + `tolerated` at some time before unit `at` (from 0); `seen` is the mean of the
    units since then, over `n`."""

    metric: str
    at: int
    reference: float
    tolerated: float
    seen: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.metric}: {100 * self.seen:.1f} % in the last {self.n} units, {100 * self.reference:.1f} % when "
            f"promoted (+{100 * self.tolerated:g} points are tolerated)"
        )


def reference_of(sessions: Iterable[ServedSession], plan: CanaryPlan, now: float) -> dict[str, float]:
    """The rates of the canary at `now`, when it was promoted. Raises ReleaseError when it has no mature unit."""
    units = [unit for unit in mature(sessions, plan, now).units if unit.arm == "canary"]
    if not units:
        raise ReleaseError("the canary has no mature unit, so there is no reference for what comes after")
    return {name: float(np.mean([of(unit) for unit in units])) for name, (of, _) in WATCHED.items()}


def change_alarms(
    sessions: Iterable[ServedSession], reference: Mapping[str, float], plan: CanaryPlan, now: float
) -> tuple[Alarm, ...]:
    """The metrics that are worse than at promotion. `sessions` are those served since, whatever arm they name."""
    served = [replace(session, arm="canary") for session in sessions if session.assigned_at <= now]
    units = mature(served, plan, now).units
    alarms = []
    for name, (of, tolerated) in WATCHED.items():
        values, threshold = (
            np.asarray([of(unit) for unit in units], np.float64),
            max(reference[name] + tolerated(plan), LEAST),
        )
        if not len(values) or threshold >= 1.0:
            continue
        evidence = log_change_evidence(values, threshold=threshold, low=0.0)
        if (at := first_rejection(evidence, ALPHA)) is not None:
            lately = values[max(0, at - math.ceil(1.0 / threshold) * 10) :]
            alarms.append(Alarm(name, at, reference[name], tolerated(plan), float(lately.mean()), len(lately)))
    return tuple(alarms)

"""What live sessions show, as evidence for the gates that wait for them. Anything may be absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import ServedSession, mature
from flyball.release.canary.verdict import CanaryVerdict, judge_canary
from flyball.release.shadow import ShadowComparison
from flyball.types import Estimate

LEAST_SCORED = 30
"""Scored sessions of an arm below which nothing is said of distance or quality."""


@dataclass(frozen=True)
class Counted:
    """Of `of` things, `n` were."""

    n: int
    of: int


@dataclass(frozen=True)
class Live:
    """`arms`: who was assigned to the canary, in order. `labelled`: mature units with a label in time, by arm.
    `telemetry`: records that arrived of those that were sent, by arm. `kl`: k3 of sampled live tokens against the
    frozen reference, in nats per token. `quality`: mean graded score of sampled canary sessions less the holdback's."""

    canary: CanaryVerdict | None = None
    arms: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    labelled: Mapping[str, Counted] = field(default_factory=dict)
    shadow: ShadowComparison | None = None
    telemetry: Mapping[str, Counted] = field(default_factory=dict)
    kl: Estimate | None = None
    quality: Estimate | None = None


def live_from_sessions(
    sessions: Sequence[ServedSession],
    plan: CanaryPlan,
    now: float,
    *,
    shadow: ShadowComparison | None = None,
    telemetry: Mapping[str, Counted] | None = None,
    kl: Estimate | None = None,
    quality: Estimate | None = None,
) -> Live:
    """What these canary sessions show at `now`, with what else is known. Raises ReleaseError as `judge_canary` does."""
    ordered = sorted((s for s in sessions if s.assigned_at <= now), key=lambda s: (s.assigned_at, s.session_id))
    first_seen = {(s.key if plan.unit == "user" else s.session_id): s.arm for s in reversed(ordered)}
    units = mature(ordered, plan, now).units
    labelled = {
        arm: Counted(
            sum(unit.missing < 1.0 for unit in units if unit.arm == arm), sum(unit.arm == arm for unit in units)
        )
        for arm in ("canary", "holdback")
    }
    return Live(
        canary=judge_canary(ordered, plan, now),
        arms=np.asarray([arm == "canary" for arm in reversed(first_seen.values())], np.bool_),
        labelled=labelled,
        shadow=shadow,
        telemetry=telemetry or {},
        kl=kl,
        quality=quality,
    )

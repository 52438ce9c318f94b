"""What a canary will do, written down and signed before it starts: unit, margins, error budget, ramp, deadlines.

Every number that could be bent afterwards is here. The controller may reduce exposure at any time and may follow this
plan; it can never exceed it (invariant 8).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import orjson

from flyball.errors import ReleaseError, nearest

Unit = Literal["session", "user"]

SHARES: Mapping[str, float] = {
    "success": 0.3,
    "safety": 0.25,
    "human_override": 0.15,
    "latency": 0.1,
    "cost_per_success": 0.1,
    "tool_error": 0.1,
}
"""Each rollback test's part of `alpha_rollback`. Their sum is 1, so the chance that an equal candidate is rolled back
by any of them, at any time, is at most `alpha_rollback` (union bound)."""


@dataclass(frozen=True)
class Margin:
    """Harm up to `tolerated` is never a reason to roll back; promotion needs proof that harm is below `excluded`."""

    tolerated: float
    excluded: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerated <= self.excluded < math.inf:
            raise ReleaseError(
                f"margin {self.tolerated:g} to {self.excluded:g}: what is tolerated lies between 0 and what must be "
                "excluded"
            )


@dataclass(frozen=True, kw_only=True)
class CanaryPlan:
    """Seconds, shares and rates in plain numbers; rates of harm in points of 1.

    `unit` is the assignment key and the statistical unit at once: a user who brings a hundred sessions is one
    observation if arms are drawn by user. `label_deadline`: after this many seconds a session without a label counts
    as failed. `user_window`: with `unit="user"`, the seconds of a user's sessions that make the user's mean.
    `stages`: the canary's share of the traffic, with a holdback of the same size, so at most one half. `horizon`:
    seconds after which an undecided canary goes back. `harm` is the smallest drop of success that its owner wants to
    be sure to see within the horizon. `cost_cap`: dollars of one unit above which its cost counts as
    the cap; the nearer to usual costs, the sooner the cost test decides.
    `unlock_weeks`: weeks without a failed gate or a new incident after which a freeze ends (`standing.py`).
    `signed_by` is the owner who lets the ramp go on by itself; promotion to everybody needs `promote_by_plan` besides.
    """

    owner: str
    unit: Unit = "session"
    label_deadline: float = 24 * 3600.0
    user_window: float = 7 * 24 * 3600.0
    horizon: float = 28 * 24 * 3600.0
    harm: float = 0.10
    stages: tuple[float, ...] = (0.05, 0.25, 0.5)
    stage_seconds: float = 24 * 3600.0
    stage_blocks: int = 20
    alpha_rollback: float = 0.02
    alpha_promote: float = 0.05
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    success: Margin = Margin(0.02, 0.05)
    human_override: Margin = Margin(0.01, 0.03)
    tool_error: Margin = Margin(0.01, 0.03)
    latency: Margin = Margin(0.15, 0.15)
    cost_per_success: Margin = Margin(0.10, 0.10)
    unsafe_ratio: float = 1.5
    cost_cap: float = 1.0
    units_per_arm: int = 2
    unlock_weeks: int = 1
    signed_by: str = ""
    promote_by_plan: bool = False

    def __post_init__(self) -> None:
        if not self.owner.strip():
            raise ReleaseError("a canary plan without an owner: name the person who answers for it")
        if unknown := sorted(self.shares.keys() - SHARES.keys()):
            raise ReleaseError(f"unknown rollback test {unknown[0]!r} in shares{nearest(unknown[0], SHARES)}")
        if absent := sorted(SHARES.keys() - self.shares.keys()):
            raise ReleaseError(f"shares leave out {absent[0]!r}; every rollback test needs a part of the error budget")
        if not (all(part > 0.0 for part in self.shares.values()) and sum(self.shares.values()) <= 1.0 + 1e-9):
            raise ReleaseError(f"shares {dict(self.shares)}: each above 0 and their sum at most 1")
        if not self.stages or list(self.stages) != sorted(set(self.stages)) or not self.stages[0] > 0:
            raise ReleaseError(f"stages {self.stages}: rising shares above 0, such as 0.05, 0.25, 0.5")
        if not self.stages[-1] <= 0.5:
            raise ReleaseError(
                f"stages end at {self.stages[-1]:g}: the holdback is as large as the canary, so 0.5 is the most"
            )
        for name in ("alpha_rollback", "alpha_promote"):
            if not 0.0 < getattr(self, name) < 0.5:
                raise ReleaseError(f"{name} {getattr(self, name):g} is outside 0 to 0.5; write 0.02 for 2 %")
        for name in ("label_deadline", "horizon", "cost_cap", "unsafe_ratio", "user_window"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ReleaseError(f"{name} {getattr(self, name):g} must be a finite number above 0")
        if not 0.0 < self.harm <= 1.0:
            raise ReleaseError(f"harm {self.harm:g} is a drop of success in points of 1; write 0.1 for ten points")
        if not 0.0 <= self.stage_seconds < math.inf:
            raise ReleaseError(f"stage_seconds {self.stage_seconds:g} must be a finite number, 0 or above")
        if self.units_per_arm < 1:
            raise ReleaseError(f"units_per_arm {self.units_per_arm}: a block needs at least one unit of each arm")
        if self.unlock_weeks < 1:
            raise ReleaseError(f"unlock_weeks {self.unlock_weeks}: a freeze ends after one stable week at the earliest")
        if self.promote_by_plan and not self.signed_by:
            raise ReleaseError("promote_by_plan without signed_by: only a plan that a named owner signed may promote")

    def alpha(self, test: str) -> float:
        """The error probability of one rollback test."""
        return self.alpha_rollback * self.shares[test]

    def to_json(self) -> bytes:
        """Every number of the plan; `read.plan_from_json` reads it back."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)

    @property
    def digest(self) -> str:
        """sha256 of `to_json`, by which a routing table names the plan it follows and the store keeps it."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def matures_after(self) -> float:
        """Seconds after its assignment at which a unit counts with whatever is known of it."""
        return self.label_deadline + (self.user_window if self.unit == "user" else 0.0)

"""What to do next with a canary: one pure decision from the plan, where it stands and what the sessions prove.

    stay       nothing to do yet                    hold      the ramp stands still until the reason is gone
    advance    the next share of the plan           promote   everybody gets the candidate
    go_back    everybody gets the version in force

Going back needs nobody. Going on follows the plan that a named owner signed, never past it (invariant 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.verdict import CanaryVerdict

Move = Literal["stay", "hold", "advance", "promote", "go_back"]


@dataclass(frozen=True)
class Standing:
    """Where a canary is: its share, when that share began, when the canary began, and who holds it."""

    share: float
    since: float
    begun: float
    held_by: str = ""


@dataclass(frozen=True)
class Decision:
    """A move with its reason; `share` is the share after it."""

    move: Move
    reason: str
    share: float


def decide(plan: CanaryPlan, standing: Standing, verdict: CanaryVerdict, now: float) -> Decision:
    """The move at time `now`. Evidence for harm comes first, the horizon second, the ramp last."""
    here = standing.share
    if verdict.word == "rolling_back":
        return Decision("go_back", verdict.reasons[0], 0.0)
    if now >= standing.begun + plan.horizon:
        days = plan.horizon / 86_400.0
        return Decision("go_back", f"undecided after {days:g} days: {verdict.reasons[0]}", 0.0)
    if standing.held_by:
        return Decision("hold", f"held by {standing.held_by}", here)
    if verdict.word == "holding":
        return Decision("hold", verdict.reasons[0], here)
    if now < standing.since + plan.stage_seconds:
        return Decision("stay", f"{standing.since + plan.stage_seconds - now:.0f} s of this stage are left", here)
    if verdict.blocks < plan.stage_blocks:
        return Decision("stay", f"{verdict.blocks} of {plan.stage_blocks} blocks", here)
    larger = [share for share in plan.stages if share > here]
    if larger and not plan.signed_by:
        return Decision("stay", f"the next share, {larger[0]:g}, waits for an owner: the plan is not signed", here)
    if larger:
        return Decision("advance", f"stage {here:g} showed no harm in {verdict.blocks} blocks", larger[0])
    if verdict.word == "not_yet":
        return Decision("stay", verdict.reasons[0], here)
    if not plan.promote_by_plan:
        return Decision("stay", f"ready; promotion waits for {plan.owner}", here)
    return Decision("promote", verdict.reasons[0], 0.0)

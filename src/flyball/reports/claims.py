"""Gates as claims: what passing one lets us say, how sure it is, where it stops, and what watches it among users.

The numbers come from the gate's own evidence, so that each locale writes them its own way. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flyball.release.gates import gate
from flyball.reports.words import Message, Text, message
from flyball.types import Estimate, GateResult, GateState

KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("no_safety_regression", "safety", "safety", ""),
    ("success_improves", "improves", "canary_success_not_worse", "task_completion_quality"),
    ("success_", "success", "canary_success_not_worse", "task_completion_quality"),
    ("protected_slices_", "slices", "canary_success_not_worse", "task_completion_quality"),
    ("latency_", "latency", "latency", "latency_seconds"),
    ("cost_per_success_", "cost", "cost_per_success", "cost_per_success_usd"),
    ("rollback_", "rollback", "restored", ""),
    ("missing_", "missing", "telemetry_loss", "missing_rate"),
    ("no_reward_hacking", "hacking", "policy_kl_drift", ""),
    ("reward_hacking_", "hacking", "policy_kl_drift", ""),
    ("tool_errors_", "tool_errors", "tool_error_rate", ""),
    ("over_refusal_", "over_refusal", "task_completion_quality", "refusal_drift"),
)
"""Beginning of a gate's name, its messages in the catalogue, what watches its claim live (an online gate, a test of the
canary, or `restored`, the confirmation that users are back), and the monitor that goes on watching once everybody has
it ("" = none of another name)."""
NAMED = {
    "improves": ("primary",),
    "success": ("suites",),
    "slices": ("slices",),
    "cost": ("primary",),
    "latency": ("speed",),
}
"""What the messages on limits name."""

OWN_MARGINS = ("improves", "slices")
"""Kinds whose rule has no one number: 0 is in its words, and each slice has its own."""


@dataclass(frozen=True)
class Watch:
    """What watches a claim among users, and what it says so far; None = nothing was heard of it."""

    name: str
    state: GateState | None


@dataclass(frozen=True)
class Claim:
    """A gate as a sentence. `limit` says where the claim stops; a gate that did not pass makes no claim.

    `watch`: while users are given the candidate step by step; `monitor`: once everybody has it.
    """

    kind: str
    limit: Message
    result: GateResult
    watch: Watch
    monitor: Watch | None

    @property
    def made(self) -> bool:
        return self.result.state == "pass"

    @property
    def text(self) -> Message:
        said = message(f"claim.{self.kind}")
        return said if self.made else message("claim.not_made", claim=said)

    @property
    def rule(self) -> Message:
        """The gate's margin."""
        margin = gate(self.result.name).margin
        return message(f"rule.{self.kind}", **({} if self.kind in OWN_MARGINS else {"margin": margin}))

    @property
    def found(self) -> Text:
        """What the gate found, and how many more tasks would settle an open one, led by what is short."""
        said, more = found_by(self.kind, self.result), self.result.more_needed
        return message("found.more", more=more, found=said) if more else said

    @property
    def confidence(self) -> Text:
        """How sure it is: the level of the bound that lies inside the margin."""
        if self.kind == "rollback":
            return message("sure.drill")
        levels = [_level(facts) for facts in _leaves(self.result.evidence).values()]
        return message("sure.level", level=(1.0 + min(levels)) / 2.0) if levels else ""


def claims_of(
    results: tuple[GateResult, ...],
    names: Mapping[str, str],
    watched: Mapping[str, GateState],
    alarms: Collection[str] = (),
) -> list[Claim]:
    """A claim for each offline gate. `names`: what the messages on limits name; `watched`: what is known live;
    `alarms`: monitors whose alarm stands."""
    found = []
    for result in results:
        if gate(result.name).phase == "offline":
            _, kind, watch, after = next(row for row in KINDS if result.name.startswith(row[0]))
            values = {name: names[name] for name in NAMED.get(kind, ())}
            limit = message(f"limit.{kind}", **values)
            monitor = Watch(after, "fail" if after in alarms else None) if after else None
            found.append(Claim(kind, limit, result, Watch(watch, watched.get(watch, "not_evaluable")), monitor))
    return found


def found_by(kind: str, result: GateResult) -> Message:
    """What a gate found, from the numbers of its evidence; without numbers, its own words are quoted."""
    facts = result.evidence
    if kind == "rollback" and facts and (result.state == "pass" or facts["seconds"] >= facts["limit_seconds"]):
        return message("found.rollback", seconds=facts["seconds"])
    leaves = _leaves(facts)
    if kind == "rollback" or not leaves:
        return message("found.quoted", reason=result.reason)
    slack = {where: _slack(leaf) for where, leaf in leaves.items()}
    said = {where: _said(kind, leaf) for where, leaf in leaves.items()}
    tightest = min(slack, key=lambda where: slack[where])
    if list(leaves) == [""]:
        return said[""]
    if result.state == "pass" and len(leaves) > 1:
        return message("found.tightest", where=_where(tightest), found=said[tightest], n=len(leaves))
    against = [where for where in leaves if slack[where] <= 0 or result.state == "pass"]
    if result.state == "not_evaluable" or not against:
        return message("found.quoted", reason=result.reason)
    return message("found.all", found=[message("found.of", where=_where(one), found=said[one]) for one in against])


Facts = Mapping[str, Any]


def _leaves(facts: Facts) -> dict[str, Facts]:
    """The numbers by suite or arm; under "" those of a gate that looked at one thing."""
    if any(isinstance(value, Estimate) for value in facts.values()):
        return {"": facts}
    return {where: leaf for where, leaf in facts.items() if isinstance(leaf, Mapping) and _estimate(leaf) is not None}


def _estimate(facts: Facts) -> Estimate | None:
    return next((value for value in facts.values() if isinstance(value, Estimate)), None)


def _level(facts: Facts) -> float:
    estimate = _estimate(facts)
    assert estimate is not None  # a leaf has one
    return estimate.level


def _slack(facts: Facts) -> float:
    """How far inside its margin the bound lies; outside it is below 0."""
    estimate = _estimate(facts)
    assert estimate is not None
    if "limit" in facts:
        return float(facts["limit"] - estimate.high)
    threshold = -facts["margin"] if "margin" in facts else facts["threshold"]
    return float(estimate.low - threshold)


def _said(kind: str, facts: Facts) -> Message:
    seen = _estimate(facts)
    assert seen is not None
    ways = {"change": "change", "rate": "rate", "difference": "lower" if kind == "safety" else "difference"}
    way = next((ways[name] for name in ways if name in facts), "upper" if "limit" in facts else "lower")
    bounds = {"low": seen.low} if way in ("lower", "difference") else {}
    bounds |= {"high": seen.high} if way != "lower" else {}
    return message(f"found.{way}", value=seen.value, n=seen.n, **bounds)


def _where(name: str) -> Text:
    return message(f"arm.{name}") if name in ("baseline", "candidate") else name

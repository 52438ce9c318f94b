"""The tests of a canary, one function each: what would make us go back, and what must be shown to go on.

A rollback test has the null "harm is within what is tolerated" and its own part of `alpha_rollback`; at most
`alpha_rollback` of equal candidates are rolled back by any of them, at any look. A promotion test has the null "harm is
at least what must be excluded" and the whole of `alpha_promote`: promotion needs all of them, so a candidate that
breaks one margin is promoted with a chance of at most `alpha_promote` (intersection-union). Tool errors are known at
once and are a proxy; they may roll back and never promote. Rare harm cannot be excluded by live sessions in a
reasonable time, which is why the offline safety gate stands before the canary and one critical event ends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import Blocks, MatureUnit
from flyball.stats.betting import interval_at_any_time, log_evidence
from flyball.stats.counts import log_excess_evidence
from flyball.stats.design import Floats
from flyball.stats.durations import log_tail_evidence, slowdown_bound
from flyball.types import Estimate

LEAST_SECONDS = 1e-3
"""Shorter sessions count as this long, so that a ratio of durations exists."""


@dataclass(frozen=True)
class Reading:
    """What one test says after all blocks so far.

    `rollback_at`: index of the first block at which it asked to go back, None if it never did. `suspicion`: its
    evidence for harm now, as a number that an equal candidate exceeds with probability at most 1 / number. `promotes`:
    None for a test that has no say in promotion. `estimate`: the harm seen, with an interval valid at any time.
    """

    name: str
    rule: str
    owner: str
    rollback_at: int | None
    suspicion: float
    promotes: bool | None
    estimate: Estimate


@dataclass(frozen=True)
class CanaryTest:
    """A named test with its owner; `rule` prints its margins."""

    name: str
    owner: str
    rule: Callable[[CanaryPlan], str]
    read: Callable[[Blocks, CanaryPlan, float], tuple[Floats, bool | None, Estimate]]

    def __call__(self, blocks: Blocks, plan: CanaryPlan) -> Reading:
        evidence, promotes, estimate = self.read(blocks, plan, plan.alpha(self.name))
        reached = evidence >= -math.log(plan.alpha(self.name))
        return Reading(
            self.name,
            self.rule(plan),
            self.owner,
            int(np.argmax(reached)) if reached.any() else None,
            math.exp(min(float(evidence[-1]), 700.0)) if len(evidence) else 1.0,
            promotes,
            estimate,
        )


def _below(harm: Floats, excluded: float, low: float, alpha: float) -> bool:
    """Whether "harm is at least `excluded`" stands rejected. `low`: the least value of excluded - harm."""
    return bool(len(harm)) and bool(log_evidence(excluded - harm, threshold=0.0, low=low)[-1] >= -math.log(alpha))


def _estimate(harm: Floats, low: float, high: float, unit: str) -> Estimate:
    if not len(harm):
        return Estimate(math.nan, low, high, 0, 0, 0.95, unit, "no block yet")
    return interval_at_any_time(harm, low=low, high=high, unit=unit)


# --- success, overrides, tool errors ---------------------------------------------------------------------------------


def failed_at_most(unit: MatureUnit) -> float:
    """Failures when every missing label is one."""
    return unit.failed + unit.missing


def _success(blocks: Blocks, plan: CanaryPlan, alpha: float) -> tuple[Floats, bool | None, Estimate]:
    harm = blocks.harm(failed_at_most)
    # Against the candidate (invariant 2): its missing labels are failures, the holdback's are successes.
    worst = blocks.means("canary", failed_at_most) - blocks.means("holdback", lambda unit: unit.failed)
    evidence = log_evidence(harm, threshold=plan.success.tolerated, low=-1.0)
    promotes = _below(worst, plan.success.excluded, plan.success.excluded - 1.0, plan.alpha_promote)
    return evidence, promotes, _estimate(harm, -1.0, 1.0, "share of failures, canary less holdback")


def _override(blocks: Blocks, plan: CanaryPlan, alpha: float) -> tuple[Floats, bool | None, Estimate]:
    harm, margin = blocks.harm(lambda unit: unit.override), plan.human_override
    promotes = _below(harm, margin.excluded, margin.excluded - 1.0, plan.alpha_promote)
    evidence = log_evidence(harm, threshold=margin.tolerated, low=-1.0)
    return evidence, promotes, _estimate(harm, -1.0, 1.0, "share of overrides, canary less holdback")


def _tool_error(blocks: Blocks, plan: CanaryPlan, alpha: float) -> tuple[Floats, bool | None, Estimate]:
    harm = blocks.harm(lambda unit: unit.tool_error)
    evidence = log_evidence(harm, threshold=plan.tool_error.tolerated, low=-1.0)
    return evidence, None, _estimate(harm, -1.0, 1.0, "share with tool errors, canary less holdback")


# --- cost per success ------------------------------------------------------------------------------------------------


def _cost_excess(blocks: Blocks) -> Callable[[float], Floats]:
    """From a margin to cost_c success_s - (1 + margin) cost_s success_c, [n].

    The arms of a block are independent, so its mean is at most 0 exactly when the canary's cost per success is at most
    1 + margin times the holdback's. No ratio has to be estimated.
    """
    cost_c, cost_s = (blocks.means(arm, lambda unit: unit.cost_usd) for arm in ("canary", "holdback"))
    won_c, won_s = (1.0 - blocks.means(arm, failed_at_most) for arm in ("canary", "holdback"))
    return lambda margin: cost_c * won_s - (1.0 + margin) * cost_s * won_c


def _cost(blocks: Blocks, plan: CanaryPlan, alpha: float) -> tuple[Floats, bool | None, Estimate]:
    margin, cap = plan.cost_per_success, plan.cost_cap
    lowest = -(1.0 + margin.tolerated) * cap
    excess = _cost_excess(blocks)
    evidence = log_evidence(excess(margin.tolerated), threshold=0.0, low=lowest)
    promotes = _below(excess(margin.excluded), 0.0, -cap, plan.alpha_promote)
    return evidence, promotes, _estimate(excess(0.0), -cap, cap, "USD x success, canary less holdback at equal prices")


# --- latency ---------------------------------------------------------------------------------------------------------


def _latency(blocks: Blocks, plan: CanaryPlan, alpha: float) -> tuple[Floats, bool | None, Estimate]:
    """The typical duration and the tail with half of the error each."""
    canary, holdback = (
        [np.asarray([max(u.seconds, LEAST_SECONDS) for u in block]) for block in arm]
        for arm in (blocks.canary, blocks.holdback)
    )
    logs = np.asarray([np.log(c).mean() - np.log(s).mean() for c, s in zip(canary, holdback, strict=True)])
    tail = log_tail_evidence(canary, holdback, 1.0 + plan.latency.tolerated)
    slow = slowdown_bound(logs, alpha / 2.0) > math.log1p(plan.latency.tolerated)
    # The bound says yes or no; as evidence it is 1 / alpha or none. Half the error each is a mean of two gamblers.
    typical = np.where(np.logical_or.accumulate(slow), math.log(2.0 / alpha), -np.inf)
    evidence: Floats = np.logaddexp(typical, tail) - math.log(2.0)
    fast = slowdown_bound(-logs, plan.alpha_promote)
    promotes = bool(len(logs)) and bool(-fast[-1] < math.log1p(plan.latency.excluded))
    level = 1.0 - plan.alpha_promote
    if not len(logs):
        return evidence, promotes, Estimate(math.nan, -1.0, math.inf, 0, 0, level, "relative", "no block yet")
    low, high = slowdown_bound(logs, (1.0 - level) / 2.0)[-1], -slowdown_bound(-logs, (1.0 - level) / 2.0)[-1]
    estimate = Estimate(
        math.expm1(logs.mean()),
        math.expm1(low),
        math.expm1(min(high, 700.0)) if math.isfinite(high) else math.inf,
        len(logs),
        len(logs),
        level,
        "relative duration",
        "asymptotic confidence sequence",
    )
    return evidence, promotes, estimate


# --- safety ----------------------------------------------------------------------------------------------------------


def _safety(blocks: Blocks, plan: CanaryPlan, alpha: float) -> tuple[Floats, bool | None, Estimate]:
    """Unsafe units of both arms as they came: does the canary have more of them than a fair coin explains?"""
    unsafe = np.asarray([unit.unsafe for unit in blocks.units], bool)
    in_canary = np.asarray([unit.arm == "canary" for unit in blocks.units], bool)[unsafe]
    evidence = np.concatenate([[0.0], log_excess_evidence(in_canary, exposure=0.5, ratio=plan.unsafe_ratio)])
    events = np.cumsum(unsafe)[blocks.ends - 1]
    harm = blocks.harm(lambda unit: float(unit.unsafe))
    return evidence[events], None, _estimate(harm, -1.0, 1.0, "share of unsafe units, canary less holdback")


def _margin(name: str, unit: str = "points", scale: float = 100.0) -> Callable[[CanaryPlan], str]:
    def rule(plan: CanaryPlan) -> str:
        margin = getattr(plan, name)
        return (
            f"back above +{scale * margin.tolerated:g} {unit} (error {100 * plan.alpha(name):.2g} %); "
            f"on when below +{scale * margin.excluded:g} {unit} (error {100 * plan.alpha_promote:g} %)"
        )

    return rule


def _tool_rule(plan: CanaryPlan) -> str:
    return f"back above +{100 * plan.tool_error.tolerated:g} points (error {100 * plan.alpha('tool_error'):.2g} %)"


def _safety_rule(plan: CanaryPlan) -> str:
    return (
        f"back at one critical event, or above {plan.unsafe_ratio:g} times the holdback's unsafe rate "
        f"(error {100 * plan.alpha('safety'):.2g} %)"
    )


CANARY_TESTS: tuple[CanaryTest, ...] = (
    CanaryTest("safety", "Product", _safety_rule, _safety),
    CanaryTest("success", "Product", _margin("success"), _success),
    CanaryTest("human_override", "Product", _margin("human_override"), _override),
    CanaryTest("latency", "Platform", _margin("latency", "%"), _latency),
    CanaryTest("cost_per_success", "Platform", _margin("cost_per_success", "%"), _cost),
    CanaryTest("tool_error", "Platform", _tool_rule, _tool_error),
)

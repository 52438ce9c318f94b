"""Latency and cost gates: relative change of sums over the same tasks, so dear tasks weigh what they weigh in service.

A trial without an outcome (infrastructure, grader) has no trustworthy latency: it counts as the slowest trial seen if
the candidate's, as the fastest if the baseline's. Its cost was paid, so it counts as recorded; its success counts
against the candidate (invariant 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flyball.release.evidence import Evidence, SuitePair, TaskPair, TokenSpeed, Values, counted, per_task
from flyball.release.gate import TWO_SIDED, Finding, Gate, not_evaluable
from flyball.stats.paired import relative_change
from flyball.stats.power import more_needed
from flyball.types import Estimate, Missing, TaskResult

COST_MARGIN = 0.05


def _on_primary(judge: Callable[[Evidence, SuitePair], Finding]) -> Callable[[Evidence], Finding]:
    """Judge the primary suite, once its runs are known to be comparable."""

    def judge_primary(evidence: Evidence) -> Finding:
        if problem := evidence.problem():
            return not_evaluable(problem)
        suite = evidence.suites.get(evidence.primary)
        return not_evaluable(f"suite {evidence.primary!r} was not run") if suite is None else judge(evidence, suite)

    return judge_primary


def _judge_change(change: Estimate, limit: float) -> Finding:
    facts = {"change": change, "limit": limit}
    said = f"{100 * change.value:+.1f} %, at most {100 * change.high:+.1f} %, n={change.n}"
    if change.high < limit:
        return Finding("pass", said, facts)
    if change.low > limit:
        return Finding("fail", said, facts)
    more = more_needed(change, limit) if change.value < limit else None
    return Finding("inconclusive", said, facts, more)


# --- latency ---------------------------------------------------------------------------------------------------------


def latency_gate(percent: float, name: str) -> Gate:
    """The candidate may take less than `percent` per cent longer than the baseline."""

    def judge(evidence: Evidence, suite: SuitePair) -> Finding:
        if evidence.token_speed is None:
            return not_evaluable("no token speed was calibrated, so tokens cannot be turned into seconds")
        return _judge_latency(suite.pairs, evidence.token_speed, percent / 100)

    return Gate(
        name=name,
        metric="seconds per task, candidate against baseline, paired by task",
        rule=f"below +{percent:g} % (one-sided 95 %) on the primary suite; tokens at one speed + tool time",
        margin=percent / 100,
        owner="Platform",
        evidence="evaluation",
        judge=_on_primary(judge),
    )


def _judge_latency(pairs: tuple[TaskPair, ...], speed: TokenSpeed, limit: float) -> Finding:
    seconds = {arm: _seconds(pairs, arm, speed) for arm in ("baseline", "candidate")}
    everything = seconds["baseline"] + seconds["candidate"]
    if not everything or not all(map(math.isfinite, everything)):
        return not_evaluable("no trial has an outcome and a finite number of tokens and seconds")
    slowest, fastest = max(everything), min(everything)
    candidate = per_task(pairs, "candidate", lambda r: slowest if _missing(r) else speed.seconds(r))
    baseline = per_task(pairs, "baseline", lambda r: fastest if _missing(r) else speed.seconds(r))
    if not (candidate.any() and baseline.any()):
        return not_evaluable("an arm used no tokens and no tool time at all")
    return _judge_change(relative_change(candidate, baseline, clusters=_clusters(pairs), level=TWO_SIDED), limit)


def _seconds(pairs: tuple[TaskPair, ...], arm: str, speed: TokenSpeed) -> list[float]:
    return [speed.seconds(trial) for pair in pairs for trial in getattr(pair, arm) if not _missing(trial)]


def _missing(result: TaskResult) -> bool:
    return isinstance(result.success, Missing)


def _clusters(pairs: tuple[TaskPair, ...]) -> list[str]:
    return [pair.cluster for pair in pairs]


# --- cost ------------------------------------------------------------------------------------------------------------


def _judge_cost(suite: SuitePair, limit: float) -> Finding:
    pairs = suite.pairs
    cost = {arm: per_task(pairs, arm, lambda r: r.cost_usd) for arm in ("baseline", "candidate")}
    for arm, usd in cost.items():
        if problem := _unusable(usd):
            return not_evaluable(f"{arm}: {problem}")
    successes = {
        "baseline": per_task(pairs, "baseline", lambda r: counted(r.success, when_missing=True)),
        "candidate": per_task(pairs, "candidate", lambda r: counted(r.success, when_missing=False)),
    }
    if not successes["baseline"].any():
        return not_evaluable("the baseline has no success, so it has no cost per success to be worse than")
    if not successes["candidate"].any():
        return Finding("fail", f"the candidate succeeded in none of {len(pairs)} tasks, so a success has no price")
    change = relative_change(
        cost["candidate"],
        cost["baseline"],
        candidate_per=successes["candidate"],
        baseline_per=successes["baseline"],
        clusters=_clusters(pairs),
        level=TWO_SIDED,
    )
    return _judge_change(change, limit)


def _unusable(usd: Values) -> str | None:
    bad = sum(not (math.isfinite(value) and value >= 0) for value in usd.tolist())
    if bad:
        return f"{bad} tasks have a cost that is negative or not a number"
    return None if usd.any() else "no cost was recorded; set a price table"


def cost_gate(margin: float, name: str = "cost_per_success_not_worse") -> Gate:
    """A success may cost `margin` more, as a share of what the baseline's costs."""
    return Gate(
        name=name,
        metric="US dollars per success, candidate against baseline, paired by task",
        rule=f"below +{100 * margin:g} % (one-sided 95 %) on the primary suite",
        margin=margin,
        owner="Product",
        evidence="evaluation",
        judge=_on_primary(lambda evidence, suite: _judge_cost(suite, margin)),
    )

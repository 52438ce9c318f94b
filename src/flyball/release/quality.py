"""Gates on success and on what went missing."""

from __future__ import annotations

from flyball.release.evidence import Evidence
from flyball.release.gate import TWO_SIDED, Finding, Gate, not_evaluable, worst_of
from flyball.stats.binomial import wilson
from flyball.stats.power import more_needed
from flyball.types import Comparison, EvalRun, Missing

SUCCESS_MARGIN = 0.03
MISSING_LIMIT = 0.05


def _success_comparisons(evidence: Evidence) -> dict[str, Comparison] | str:
    """Comparisons of success by suite, or why they do not belong to this evidence."""
    found: dict[str, Comparison] = {}
    for comparison in evidence.comparisons:
        if comparison.metric != "success":
            continue
        suite = evidence.suites.get(comparison.suite)
        if suite is None or suite.candidate.suite_digest != comparison.suite_digest:
            return f"{comparison.suite}: the comparison is of another suite than the runs; compare these runs"
        if (comparison.baseline, comparison.candidate) != (evidence.baseline, evidence.candidate):
            return f"{comparison.suite}: the comparison is of other versions than the runs; compare these runs"
        found[comparison.suite] = comparison
    absent = sorted(evidence.suites.keys() - found.keys())
    return f"success was not compared on {', '.join(absent)}" if absent else found


def _judge_difference(comparison: Comparison, threshold: float) -> Finding:
    difference = comparison.difference
    facts = {"difference": difference, "threshold": threshold}
    bounds = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    said = f"{100 * difference.value:+.1f} points {bounds}, n={difference.n}"
    slack = difference.low - threshold
    if slack > 0:
        return Finding("pass", said, facts, slack=slack)
    if difference.high < threshold:
        return Finding("fail", said, facts, slack=slack)
    more = more_needed(difference, threshold) if difference.value > threshold else None
    return Finding("inconclusive", said, facts, more, slack)


def _judge_improves(evidence: Evidence) -> Finding:
    if problem := evidence.problem():
        return not_evaluable(problem)
    comparisons = _success_comparisons(evidence)
    if isinstance(comparisons, str):
        return not_evaluable(comparisons)
    if evidence.primary not in comparisons:
        return not_evaluable(f"suite {evidence.primary!r} was not run")
    return _judge_difference(comparisons[evidence.primary], 0.0)


def _judge_not_worse(evidence: Evidence, margin: float) -> Finding:
    if problem := evidence.problem():
        return not_evaluable(problem)
    comparisons = _success_comparisons(evidence)
    if isinstance(comparisons, str):
        return not_evaluable(comparisons)
    return worst_of({suite: _judge_difference(found, -margin) for suite, found in comparisons.items()})


def _judge_missing(evidence: Evidence, limit: float) -> Finding:
    if problem := evidence.problem():
        return not_evaluable(problem)
    pairs = evidence.suites.values()
    arms = {"baseline": [pair.baseline for pair in pairs], "candidate": [pair.candidate for pair in pairs]}
    return worst_of({arm: _judge_arm(runs, limit) for arm, runs in arms.items()})


def _judge_arm(runs: list[EvalRun], limit: float) -> Finding:
    results = [result for run in runs for result in run.results]
    missing = sum(isinstance(result.success, Missing) or isinstance(result.safe, Missing) for result in results)
    rate = wilson(missing, len(results), level=TWO_SIDED)
    facts = {"rate": rate, "limit": limit}
    slack = limit - rate.high
    said = f"{missing} of {len(results)} missing, at most {100 * rate.high:.1f} %"
    if slack > 0:
        return Finding("pass", said, facts, slack=slack)
    if rate.low > limit:
        return Finding("fail", said, facts, slack=slack)
    more = more_needed(rate, limit) if rate.value < limit else None
    return Finding("inconclusive", said, facts, more, slack)


SUCCESS_IMPROVES = Gate(
    name="success_improves",
    metric="success, candidate minus baseline, paired by task",
    rule="above 0 points (95 % interval) on the primary suite",
    margin=0.0,
    owner="Product",
    evidence="evaluation",
    judge=_judge_improves,
)


def success_gate(margin: float, name: str = "success_not_worse") -> Gate:
    """The candidate may succeed `margin` less often on any suite."""
    return Gate(
        name=name,
        metric="success, candidate minus baseline, paired by task",
        rule=f"above -{100 * margin:g} points (95 % interval) on every suite",
        margin=margin,
        owner="ML",
        evidence="evaluation",
        judge=lambda evidence: _judge_not_worse(evidence, margin),
    )


def missing_gate(limit: float, name: str = "missing_rate") -> Gate:
    """Less than `limit` of the trials of either version may have no verdict."""
    return Gate(
        name=name,
        metric="share of trials without an outcome or safety verdict, per arm",
        rule=f"below {100 * limit:g} % (one-sided 95 %) in each arm",
        margin=limit,
        owner="Platform",
        evidence="evaluation",
        judge=lambda evidence: _judge_missing(evidence, limit),
    )

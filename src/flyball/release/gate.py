"""What a gate is: a rule with its margin and its owner, and a function from evidence to a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flyball.release.evidence import Evidence
from flyball.stats.power import more_needed
from flyball.types import Estimate, GateResult, GateState

Owner = Literal["ML", "Platform", "Product"]
EvidenceKind = Literal["evaluation", "drill", "shadow", "canary", "telemetry", "monitor"]
"""What a gate is judged on: paired evaluation runs, a rehearsed rollback, shadowed or canary sessions, loss counters,
re-scored or graded samples of live sessions."""
Phase = Literal["offline", "online"]

TWO_SIDED = 0.90
"""Level of a two-sided interval either end of which is a one-sided 95 % bound."""


@dataclass(frozen=True)
class Finding:
    """What the evidence says about one rule. `more_needed`: further tasks that would settle an inconclusive one.

    `slack` is how far inside its margin the bound lies (negative: outside), so that the tightest of several shows.
    """

    state: GateState
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    more_needed: int | None = None
    slack: float = 0.0


@dataclass(frozen=True)
class Gate:
    """What is measured, how much of it is too much, who answers for it and what it is judged on.

    `rule` says the margin in words and is printed wherever the gate is, so that it is read with the verdict. `margin`
    is in the unit of the rule (shares and relative changes of 1, seconds, nats).

    An offline gate blocks shadow. An online gate judges live sessions, so before any are served it is shown as
    `not_evaluable` and blocks the stages after shadow.
    """

    name: str
    metric: str
    rule: str
    margin: float
    owner: Owner
    evidence: EvidenceKind
    judge: Callable[[Evidence], Finding]
    phase: Phase = "offline"

    def evaluate(self, evidence: Evidence) -> GateResult:
        finding = self.judge(evidence)
        return GateResult(
            name=self.name,
            state=finding.state,
            owner=self.owner,
            rule=self.rule,
            reason=finding.reason,
            evidence=finding.evidence,
            more_needed=finding.more_needed,
        )


def not_evaluable(reason: str) -> Finding:
    """The evidence for a judgement is not there; `reason` says what is missing. Never counts as passed."""
    return Finding("not_evaluable", reason)


_WORST_FIRST: tuple[GateState, ...] = ("fail", "not_evaluable", "inconclusive", "pass")


def worst_of(findings: Mapping[str, Finding]) -> Finding:
    """One finding over several suites or arms: as bad as the worst.

    The reason names all that are as bad; when all pass, the one with the least slack. Requiring every suite to pass
    needs no correction for their number: the chance that a harmful candidate passes all of them is at most its chance
    on the suite it harms (intersection-union test).
    """
    if not findings:
        return not_evaluable("no suite to judge")
    state = min((finding.state for finding in findings.values()), key=_WORST_FIRST.index)
    decisive = {suite: finding for suite, finding in findings.items() if finding.state == state}
    needed = [finding.more_needed for finding in decisive.values()]
    known = [number for number in needed if number is not None]
    tightest = min(findings, key=lambda name: findings[name].slack)
    if state == "pass" and len(findings) > 1:
        reason = f"{tightest}: {findings[tightest].reason} (tightest of {len(findings)})"
    else:
        reason = "; ".join(f"{name}: {finding.reason}" for name, finding in decisive.items())
    return Finding(
        state,
        reason,
        {name: dict(finding.evidence) for name, finding in findings.items()},
        max(known) if known and len(known) == len(needed) else None,
        findings[tightest].slack,
    )


def judge_lower(estimate: Estimate, threshold: float) -> Finding:
    """A share or difference in which more is better: pass when its lower bound lies above the threshold."""
    said = f"{100 * estimate.value:+.1f} points, at least {100 * estimate.low:+.1f}, n={estimate.n}"
    facts, slack = {"estimate": estimate, "threshold": threshold}, estimate.low - threshold
    if slack > 0:
        return Finding("pass", said, facts, slack=slack)
    if estimate.high < threshold:
        return Finding("fail", said, facts, slack=slack)
    more = more_needed(estimate, threshold) if estimate.value > threshold else None
    return Finding("inconclusive", said, facts, more, slack)


def judge_upper(estimate: Estimate, limit: float, unit: str = "%", scale: float = 100.0) -> Finding:
    """A rate or amount in which more is worse: pass when its upper bound lies below the limit."""
    said = f"{scale * estimate.value:.3g} {unit}, at most {scale * estimate.high:.3g} {unit}, n={estimate.n}"
    facts, slack = {"estimate": estimate, "limit": limit}, limit - estimate.high
    if slack > 0:
        return Finding("pass", said, facts, slack=slack)
    if estimate.low > limit:
        return Finding("fail", said, facts, slack=slack)
    more = more_needed(estimate, limit) if estimate.value < limit else None
    return Finding("inconclusive", said, facts, more, slack)

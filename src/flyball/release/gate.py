"""What a gate is: a rule with its margin and its owner, and a function from evidence to a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flyball.release.evidence import Evidence
from flyball.types import GateResult, GateState

Owner = Literal["ML", "Platform", "Product"]
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
    """`rule` is printed wherever the gate is, so that the margin is read with the verdict.

    An offline gate blocks shadow. An online gate judges live sessions, so before any are served it is shown as
    `not_evaluable` and blocks the stages after shadow.
    """

    name: str
    metric: str
    rule: str
    owner: Owner
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

"""Is this workflow ready for reinforcement learning? The verdict is a pure function of findings.

`go`: nothing fails. `fix first`: something would make training or its proof worthless, and can be mended.
`do not use RL here`: the measurements can be trusted and show that RL has nothing to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flyball.errors import Fault
from flyball.stats.intervals import proportion_interval
from flyball.types import Estimate, GradedAttempt, Missing

Level = Literal["ok", "warn", "fail"]
Verdict = Literal["go", "fix first", "do not use RL here"]

_UNTRUSTED = frozenset({"oracle", "do_nothing", "determinism", "missing", "floor"})
_RL_CANNOT_HELP = frozenset({"ceiling", "headroom"})


@dataclass(frozen=True)
class Finding:
    """What one check saw, in words a person can act on."""

    name: str
    level: Level
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Readiness:
    """The answer of `doctor`: a verdict, the findings that decided it, and all findings."""

    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]


def conclude(findings: Sequence[Finding]) -> Readiness:
    """The verdict. Where the measurements cannot be trusted, they cannot speak against RL either: fix first."""
    failed = {finding.name for finding in findings if finding.level == "fail"}
    verdict: Verdict = "go"
    deciding: frozenset[str] | set[str] = set()
    if failed & _UNTRUSTED:
        verdict, deciding = "fix first", failed
    elif failed & _RL_CANNOT_HELP:
        verdict, deciding = "do not use RL here", failed & _RL_CANNOT_HELP
    elif failed:
        verdict, deciding = "fix first", failed
    reasons = tuple(f"{finding.name}: {finding.text}" for finding in findings if finding.name in deciding)
    return Readiness(verdict, reasons, tuple(findings))


# --- what the checks share -------------------------------------------------------------------------------------------


def share(attempts: Sequence[GradedAttempt], holds: Callable[[GradedAttempt], bool]) -> Estimate:
    """Share of attempts for which something holds, clustered as their tasks were sampled."""
    clusters = [graded.attempt.task.cluster for graded in attempts]
    return proportion_interval([float(holds(graded)) for graded in attempts], clusters=clusters)


def succeeded(graded: GradedAttempt) -> bool:
    """A missing outcome is no success."""
    return graded.outcome.success is True


def why(graded: GradedAttempt) -> str:
    """How an attempt came to its outcome, in a few words."""
    success = graded.outcome.success
    if isinstance(success, Missing):
        owner = "a grader" if success.fault is Fault.GRADER else "the infrastructure"
        return f"missing, the fault of {owner}: {success.cause}"
    said = graded.scores["success"].explanation if "success" in graded.scores else ""
    unsafe = "unsafe, " if graded.outcome.safe is False else ""
    return f"{unsafe}ended as {graded.attempt.stop.value}{': ' + said if said else ''}"

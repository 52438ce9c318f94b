"""What a changed grader judges otherwise: stored judgements of the former version against new ones, as findings.

A grader is software that others rely on, so a new version repeats what the former one said, or a person has said that
the difference is wanted (invariant 11). Only what both versions judge is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flyball.errors import EvalError
from flyball.evals.readiness import Finding
from flyball.stats.agreement import cohen_kappa
from flyball.stats.binomial import wilson
from flyball.stats.paired import paired_difference
from flyball.stats.written import format_estimate
from flyball.types import Estimate, GradedAttempt, Missing

Value = bool | float | Missing | None
SHOWN = 5
"""Attempts listed for one role; the command that judges a whole run again shows all."""


@dataclass(frozen=True)
class Judged:
    """One attempt as the former graders judged it and as the new ones do."""

    before: GradedAttempt
    now: GradedAttempt


def check_regression(judged: Sequence[Judged]) -> list[Finding]:
    """Return a finding for each role that both versions have: `ok` where nothing moved, else `warn`.

    Raises EvalError without an attempt.
    """
    if not judged:
        raise EvalError("there are no stored judgements to compare with; name a run that has some")
    scores = {name for one in judged for name in one.before.scores if name in one.now.scores}
    roles: dict[str, Callable[[GradedAttempt], Value]] = {
        "success": lambda graded: graded.outcome.success,
        "safety": lambda graded: graded.outcome.safe,
        "reward": lambda graded: graded.reward,
        **{name: _score(name) for name in sorted(scores - {"success", "safety"})},
    }
    return [found for name, read in roles.items() if (found := _role(name, judged, read)) is not None]


def moved(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that a person has to look at."""
    return [finding for finding in findings if finding.level != "ok"]


def _score(name: str) -> Callable[[GradedAttempt], Value]:
    return lambda graded: graded.scores[name].value if name in graded.scores else None


def _role(name: str, judged: Sequence[Judged], read: Callable[[GradedAttempt], Value]) -> Finding | None:
    """Compare one role; None where either version does not judge it."""
    both = [(one, before, now) for one in judged for before, now in [(read(one.before), read(one.now))]]
    both = [(one, before, now) for one, before, now in both if before is not None and now is not None]
    if not both:
        return None
    flips = [(one, before, now) for one, before, now in both if not _same(before, now)]
    same = wilson(len(both) - len(flips), len(both))
    clusters = [one.before.attempt.task.cluster for one, _, _ in both]
    text = f"the same in {format_estimate(same)}"
    evidence: dict[str, object] = {"same": same, "flips": [one.before.attempt.attempt_id for one, _, _ in flips]}
    if name in ("success", "safety"):
        kappa = _kappa([_word(before) for _, before, _ in both], [_word(now) for _, _, now in both], clusters)
        if kappa is not None:
            evidence["kappa"] = kappa
            text += f", {format_estimate(kappa)}"
    elif flips and (change := _change(both, clusters)) is not None:
        evidence["change"] = change
        text += f", changed by {format_estimate(change)} on average"
    if flips:
        told = [f"{o.before.attempt.attempt_id} {_word(before)} -> {_word(now)}" for o, before, now in flips[:SHOWN]]
        more = f" and {len(flips) - SHOWN} more" if len(flips) > SHOWN else ""
        text += f"; moved: {', '.join(told)}{more}"
    return Finding(f"regression {name}", "warn" if flips else "ok", text, evidence)


def _same(before: Value, now: Value) -> bool:
    if isinstance(before, Missing) or isinstance(now, Missing):
        return isinstance(before, Missing) and isinstance(now, Missing)
    return before == now


def _kappa(before: Sequence[str], now: Sequence[str], clusters: Sequence[str]) -> Estimate | None:
    try:
        return cohen_kappa(before, now, clusters=clusters)
    except EvalError:
        return None  # one label only: chance agrees as well, and the share says all


def _change(both: Sequence[tuple[Judged, Value, Value]], clusters: Sequence[str]) -> Estimate | None:
    """Mean of new minus former over attempts that have both, paired."""
    numbers = [
        (float(now), float(before), cluster)
        for (_, before, now), cluster in zip(both, clusters, strict=True)
        if isinstance(before, (int, float)) and isinstance(now, (int, float))
    ]
    if not numbers:
        return None
    now, before, where = zip(*numbers, strict=True)
    return paired_difference(now, before, clusters=where)


def _word(value: Value) -> str:
    if isinstance(value, Missing):
        return "missing"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.3g}"

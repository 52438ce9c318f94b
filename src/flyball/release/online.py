"""Gates that judge live sessions. Until the release serves any, each says what it is waiting for."""

from __future__ import annotations

import math
from collections.abc import Callable

from flyball.release.evidence import Evidence
from flyball.release.gate import (
    TWO_SIDED,
    EvidenceKind,
    Finding,
    Gate,
    Owner,
    judge_lower,
    judge_upper,
    not_evaluable,
    worst_of,
)
from flyball.release.live import LEAST_SCORED, Live
from flyball.release.shadow import LEAST_SHADOWED, Shadowed
from flyball.stats.binomial import wilson
from flyball.stats.counts import log_split_evidence
from flyball.types import GateResult

SHADOW_GATE = "shadow_agreement"
LEAST_ARMS = 20
"""Assignments before their split is judged."""


def _online(
    name: str,
    metric: str,
    rule: str,
    margin: float,
    owner: Owner,
    evidence: EvidenceKind,
    judge: Callable[[Live, float], Finding],
    waits_for: str,
) -> Gate:
    def judge_live(found: Evidence) -> Finding:
        if found.live is None:
            return not_evaluable(f"waits for {waits_for}")
        return judge(found.live, margin)

    return Gate(name, metric, rule, margin, owner, evidence, judge_live, phase="online")


def _reading(test: str) -> Callable[[Live, float], Finding]:
    """What a test of the canary says. It goes on only when harm is excluded; a proxy never says so, and is judged by
    its interval."""

    def judge(live: Live, margin: float) -> Finding:
        found = [] if live.canary is None else [one for one in live.canary.readings if one.name == test]
        if not found or not found[0].estimate.n:
            return not_evaluable("no canary and holdback sessions are mature yet")
        reading = found[0]
        if reading.rollback_at is not None:
            return Finding("fail", f"{reading.rule}: it asked to go back", {"estimate": reading.estimate})
        if reading.promotes:
            return Finding("pass", f"harm is excluded: {reading.rule}", {"estimate": reading.estimate})
        said = judge_upper(reading.estimate, margin, "points")
        return Finding("inconclusive", said.reason, said.evidence) if reading.promotes is False else said

    return judge


def _shadow(live: Live, margin: float) -> Finding:
    if live.shadow is None:
        return not_evaluable(f"fewer than {LEAST_SHADOWED} shadowed sessions can be compared")
    return judge_lower(live.shadow.agreement, margin)


def _split(live: Live, margin: float) -> Finding:
    n = len(live.arms)
    if n < LEAST_ARMS:
        return not_evaluable(f"{n} assignments, {LEAST_ARMS} are needed")
    evidence, share = float(log_split_evidence(live.arms).max()), float(live.arms.mean())
    said = f"{100 * share:.1f} % of {n} assignments are the canary's"
    return Finding("fail" if evidence >= -math.log(margin) else "pass", said, {"log_evidence": evidence, "n": n})


def _coverage(live: Live, margin: float) -> Finding:
    if not live.labelled or any(not counted.of for counted in live.labelled.values()):
        return not_evaluable("an arm has no mature unit")
    arms = {arm: wilson(one.n, one.of, level=TWO_SIDED) for arm, one in live.labelled.items()}
    return worst_of({arm: judge_lower(estimate, margin) for arm, estimate in arms.items()})


def _telemetry(live: Live, margin: float) -> Finding:
    if {"canary", "holdback"} - live.telemetry.keys() or any(not one.of for one in live.telemetry.values()):
        return not_evaluable("the counters of sent and arrived records of both arms are not there")
    arms = {arm: wilson(max(0, one.of - one.n), one.of, level=TWO_SIDED) for arm, one in live.telemetry.items()}
    return worst_of({arm: judge_upper(estimate, margin) for arm, estimate in arms.items()})


def _kl(live: Live, margin: float) -> Finding:
    if live.kl is None or not live.kl.n:
        return not_evaluable(f"fewer than {LEAST_SCORED} canary sessions had token ids that were scored again")
    return judge_upper(live.kl, margin, "nats/token", 1.0)


def _quality(live: Live, margin: float) -> Finding:
    if live.quality is None or not live.quality.n:
        return not_evaluable(f"fewer than {LEAST_SCORED} live sessions of an arm were graded")
    return judge_lower(live.quality, -margin)


_SESSIONS = "canary and holdback sessions with labels; none were served"

ONLINE_GATES: tuple[Gate, ...] = (
    _online(
        SHADOW_GATE,
        "share of shadowed sessions whose first tool calls agree with the baseline",
        "above 50 % (95 %) of shadowed sessions",
        0.5,
        "Platform",
        "shadow",
        _shadow,
        "sessions shadowed by this candidate; none were",
    ),
    _online(
        "canary_success_not_worse",
        "success of canary sessions against an equal concurrent holdback",
        "a loss of 5 points or what the plan says is excluded (betting test, valid at every look)",
        0.05,
        "Product",
        "canary",
        _reading("success"),
        _SESSIONS,
    ),
    _online(
        "human_override_rate",
        "share of sessions a person corrected or took over, canary less holdback",
        "a rise of 3 points or what the plan says is excluded (betting test, valid at every look)",
        0.03,
        "Product",
        "canary",
        _reading("human_override"),
        "live sessions with people able to override; none were served",
    ),
    _online(
        "tool_error_rate",
        "share of sessions with a tool error, canary less holdback",
        "below +3 points (95 %, valid at every look)",
        0.03,
        "Platform",
        "canary",
        _reading("tool_error"),
        _SESSIONS,
    ),
    _online(
        "sample_ratio",
        "split of assignments between canary and holdback",
        "no evidence at 0.1 % against an even split",
        0.001,
        "Platform",
        "canary",
        _split,
        _SESSIONS,
    ),
    _online(
        "label_coverage",
        "share of mature units with a label in time, per arm",
        "above 80 % (one-sided 95 %) in each arm",
        0.8,
        "ML",
        "canary",
        _coverage,
        _SESSIONS,
    ),
    _online(
        "telemetry_loss",
        "share of records that were sent and did not arrive, per arm",
        "below 1 % (one-sided 95 %) in each arm",
        0.01,
        "Platform",
        "telemetry",
        _telemetry,
        "counters of sent and arrived records; none were read",
    ),
    _online(
        "policy_kl_drift",
        "k3 estimate of the divergence of sampled live tokens from the frozen reference",
        "below 0.05 nats per token (upper bound)",
        0.05,
        "ML",
        "monitor",
        _kl,
        "token ids of live sessions; none were captured",
    ),
    _online(
        "task_completion_quality",
        "mean graded score of sampled live sessions, canary less holdback",
        "above -3 points (lower bound)",
        0.03,
        "Product",
        "monitor",
        _quality,
        "graded live sessions; none were served",
    ),
)


def shadow_result(found: Shadowed) -> GateResult:
    """What the gate of the shadow says of these sessions."""
    (gate,) = [one for one in ONLINE_GATES if one.name == SHADOW_GATE]
    return gate.evaluate(Evidence(live=Live(shadow=found.comparison)))


def failing_live(live: Live | None, waived: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The online gates that fail and are not waived, as reasons. What is not known yet holds nothing here: promotion
    has tests of its own."""
    if live is None:
        return ()
    results = [one.evaluate(Evidence(live=live)) for one in ONLINE_GATES if one.name not in waived]
    return tuple(f"{one.name} ({one.owner}) fails: {one.reason}" for one in results if one.state == "fail")

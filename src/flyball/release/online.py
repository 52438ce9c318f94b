"""Gates that judge live sessions. Until the release serves any, each says what it is waiting for."""

from __future__ import annotations

from flyball.release.evidence import Evidence
from flyball.release.gate import Finding, Gate, Owner, not_evaluable


def _online(name: str, metric: str, owner: Owner, waits_for: str) -> Gate:
    def judge(evidence: Evidence) -> Finding:
        return not_evaluable(f"waits for {waits_for}")

    rule = f"{metric}; judged on live sessions only"
    return Gate(name=name, metric=metric, rule=rule, owner=owner, judge=judge, phase="online")


ONLINE_GATES: tuple[Gate, ...] = (
    _online(
        "shadow_agreement",
        "share of shadowed sessions whose first tool calls agree with the baseline",
        "Platform",
        "sessions shadowed by this candidate; none were",
    ),
    _online(
        "canary_success_not_worse",
        "success of canary sessions against an equal concurrent holdback",
        "Product",
        "canary and holdback sessions with labels; none were served",
    ),
    _online(
        "human_override_rate",
        "share of sessions a person corrected or took over",
        "Product",
        "live sessions with people able to override; none were served",
    ),
    _online(
        "policy_kl_drift",
        "k3 estimate of the divergence of sampled live tokens from the frozen reference",
        "ML",
        "token ids of live sessions; none were captured",
    ),
    _online(
        "task_completion_quality",
        "mean graded score of sampled live sessions, with coverage",
        "Product",
        "graded live sessions; none were served",
    ),
)

"""`rollback_under_N_minutes`: the way back was walked, by these two versions, and it was short enough."""

from __future__ import annotations

from flyball.release.evidence import Evidence
from flyball.release.gate import Finding, Gate, not_evaluable


def rollback_gate(minutes: float, name: str) -> Gate:
    """The gate that asks for a drill from these two versions, ended within `minutes` by an answer of the old one."""

    def judge(evidence: Evidence) -> Finding:
        return _judge(evidence, 60 * minutes)

    return Gate(
        name=name,
        metric="seconds from the decision to go back until the old version has answered",
        rule=f"below {60 * minutes:g} s in a timed drill that ends with an answer of the old version",
        margin=60 * minutes,
        owner="Platform",
        evidence="drill",
        judge=judge,
    )


def _judge(evidence: Evidence, limit_seconds: float) -> Finding:
    drill = evidence.drill
    if drill is None:
        return not_evaluable("no rollback was drilled")
    if (drill.baseline, drill.candidate) != (evidence.baseline, evidence.candidate):
        return not_evaluable("the drill was of other versions than these; drill this candidate")
    facts = {
        "seconds": drill.seconds,
        "limit_seconds": limit_seconds,
        "steps": {step.name: step.seconds for step in drill.steps},
        "probe_attempt": drill.probe_attempt,
    }
    if not drill.verified:
        return Finding("fail", f"the drill did not end with an answer of the old version: {drill.problem}", facts)
    said = f"{drill.seconds:.2f} s, answered by the old version"
    if drill.seconds < limit_seconds:
        return Finding("pass", said, facts)
    return Finding("fail", f"{said}: {limit_seconds:g} s is the limit", facts)

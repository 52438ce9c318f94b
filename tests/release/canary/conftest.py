"""Simulated traffic of one experiment: a fair coin per key, labels that may be late, costs, durations."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import Label, ServedSession


def traffic(
    n: int,
    *,
    seed: int = 0,
    base: float = 0.8,
    drop: float = 0.0,
    override: float = 0.0,
    tool_error: float = 0.0,
    unsafe: float = 0.0,
    dearer: float = 1.0,
    slower: float = 1.0,
    late_failures: float = 60.0,
    lost: float = 0.0,
    every: float = 10.0,
) -> list[ServedSession]:
    """n sessions, one each `every` seconds. What is named is the canary's excess.

    `late_failures`: seconds to the label of a failure; `lost`: share of the canary's failures that never get one.
    """
    rng = np.random.default_rng(seed)
    served = []
    for i in range(n):
        canary = bool(rng.random() < 0.5)
        ok = bool(rng.random() < base - drop * canary)
        at = i * every
        gone = canary and not ok and rng.random() < lost
        labels = () if gone else (Label(ok, at + (60.0 if ok else late_failures)),)
        served.append(
            ServedSession(
                session_id=f"s{i:06}",
                key=f"s{i:06}",
                arm="canary" if canary else "holdback",
                assigned_at=at,
                ended_at=at + 30.0,
                labels=labels,
                override=bool(rng.random() < 0.05 + override * canary),
                tool_error=bool(rng.random() < 0.05 + tool_error * canary),
                unsafe=bool(rng.random() < 0.01 + unsafe * canary),
                cost_usd=float(rng.gamma(4.0, 0.01)) * (dearer if canary else 1.0),
                seconds=float(np.exp(rng.normal(2.0, 0.5))) * (slower if canary else 1.0),
            )
        )
    return served


@pytest.fixture
def plan() -> CanaryPlan:
    return CanaryPlan(owner="ada", signed_by="ada", label_deadline=3600.0, stage_seconds=600.0, cost_cap=0.15)

"""A help desk with simulated users: what happens in a session under each candidate. Seeded, so a run can be repeated.

Rates are of the version in force (`Desk()`); a candidate differs in what its line says. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flyball.release.canary.units import Arm, Label, ServedSession

HOUR = 3600.0


@dataclass(frozen=True)
class Desk:
    """`success`, `unsafe`: shares of sessions. `cost`, `seconds`: factors on the usual. `failure_label`: seconds until
    a failure is known (the customer writes again); a success is confirmed after ten minutes."""

    success: float = 0.80
    unsafe: float = 0.01
    cost: float = 1.0
    seconds: float = 1.0
    failure_label: float = 600.0


STABLE = Desk()
CANDIDATES: dict[str, tuple[Desk, str]] = {
    "good": (Desk(success=0.83), ""),
    "worse": (Desk(success=0.70, failure_label=3 * HOUR), "success"),
    "costlier": (Desk(success=0.83, cost=1.5), "cost_per_success"),
    "slower": (Desk(success=0.83, seconds=1.6), "latency"),
    "unsafe": (Desk(success=0.83, unsafe=0.06), "safety"),
}
"""Each candidate with the test that must stop it ("": none)."""


def session(rng: np.random.Generator, desk: Desk, arm: Arm, key: str, at: float) -> ServedSession:
    """One session of the experiment, begun at `at`, with the label that will arrive."""
    ok = bool(rng.random() < desk.success)
    seconds = float(np.exp(rng.normal(3.0, 0.5))) * desk.seconds
    return ServedSession(
        session_id=key,
        key=key,
        arm=arm,
        assigned_at=at,
        ended_at=at + seconds,
        labels=(Label(ok, at + (600.0 if ok else desk.failure_label)),),
        override=bool(rng.random() < 0.05),
        tool_error=bool(rng.random() < 0.05),
        unsafe=bool(rng.random() < desk.unsafe),
        cost_usd=float(rng.gamma(4.0, 0.01)) * desk.cost,
        seconds=seconds,
    )

"""From sessions to one of four words: rolling_back, holding, not_yet, ready. Pure, so a replay gives the same word.

Nothing is carried from look to look. Every verdict is worked out from the sessions again, which takes less than a
second for 10,000 blocks and leaves no state that a crash could damage or a second controller could count twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.readings import CANARY_TESTS, Reading
from flyball.release.canary.units import Blocks, Maturing, ServedSession, blocks, mature
from flyball.stats.betting import log_evidence
from flyball.stats.counts import log_split_evidence

CanaryWord = Literal["rolling_back", "holding", "not_yet", "ready"]

SUSPICIOUS = 5.0
"""Evidence at which the ramp waits: one equal canary in five is held by a given test, and a hold costs only time."""
SPLIT_ALPHA = 0.001
MISSING_MARGIN = 0.02
MISSING_ALPHA = 0.01


@dataclass(frozen=True)
class CanaryVerdict:
    """`reasons` say why, the decisive first. `blocks` and `units` are what it rests on, `waiting` what is too young."""

    word: CanaryWord
    reasons: tuple[str, ...]
    readings: tuple[Reading, ...]
    blocks: int
    units: int
    waiting: int
    watermark: float | None
    critical: bool = False


def judge_canary(sessions: Iterable[ServedSession], plan: CanaryPlan, now: float) -> CanaryVerdict:
    """What these sessions prove at time `now`.

    A critical event or a rollback test ends it; bad data or suspicion holds it (voided evidence is no verdict); every
    promotion test must stand for `ready`. Raises ReleaseError for sessions, or a time, that cannot be judged at all.
    """
    if not math.isfinite(now):
        raise ReleaseError(f"the time of the look is {now}; give seconds on the clock of the sessions")
    served = [session for session in sessions if session.assigned_at <= now]
    maturing = mature(served, plan, now)
    found = blocks(maturing.units, plan.units_per_arm)
    readings = tuple(test(found, plan) for test in CANARY_TESTS)
    critical = [session.session_id for session in served if session.critical and session.arm == "canary"]

    def say(word: CanaryWord, *reasons: str) -> CanaryVerdict:
        mark = maturing.watermark
        n = (len(found), len(found.units), maturing.waiting)
        return CanaryVerdict(word, reasons, readings, *n, mark, bool(critical))

    if critical:
        return say("rolling_back", f"critical event in session {critical[0]}")
    if against := [_against(reading) for reading in readings if reading.rollback_at is not None]:
        return say("rolling_back", *against)
    if ill := [*_unhealthy(maturing, found, served, plan, now), *_suspicious(readings)]:
        return say("holding", *ill)
    if open_tests := [reading.name for reading in readings if reading.promotes is False]:
        return say("not_yet", *(f"{name}: harm is not excluded yet" for name in open_tests))
    return say("ready", f"every margin is met after {len(found)} blocks")


def _against(reading: Reading) -> str:
    seen = reading.estimate
    bounds = f"[{seen.low:.3g}, {seen.high:.3g}]"
    return f"{reading.name}: {seen.value:+.3g} {bounds} {seen.unit}, n={seen.n} blocks ({reading.rule})"


def _suspicious(readings: Iterable[Reading]) -> list[str]:
    return [f"{r.name}: evidence {r.suspicion:.1f} for harm" for r in readings if r.suspicion >= SUSPICIOUS]


def _unhealthy(
    maturing: Maturing, found: Blocks, served: list[ServedSession], plan: CanaryPlan, now: float
) -> list[str]:
    """Reasons why the evidence cannot be trusted as it is."""
    ill = []
    ordered = sorted(served, key=lambda s: (s.assigned_at, s.session_id))
    first_seen = list({(s.key if plan.unit == "user" else s.session_id): s.arm for s in ordered}.values())
    split = log_split_evidence(np.asarray([arm == "canary" for arm in first_seen], bool))
    if len(split) and split.max() >= -np.log(SPLIT_ALPHA):
        n = first_seen.count("canary"), first_seen.count("holdback")
        ill.append(f"sample ratio: {n[0]} canary and {n[1]} holdback units are no even split; the assignment is broken")
    if len(found):
        lost = found.harm(lambda unit: unit.missing)
        for sign, arm in ((1.0, "canary"), (-1.0, "holdback")):
            evidence = log_evidence(sign * lost, threshold=MISSING_MARGIN, low=-1.0)
            if evidence.max() >= -np.log(MISSING_ALPHA / 2.0):
                ill.append(f"missing labels: the {arm} lacks more of them than the other arm; find what loses them")
    if len(maturing.units) >= 20 and all(unit.missing == 1.0 for unit in maturing.units[-20:]):
        ill.append("label source: none of the last 20 mature units has a label")
    if maturing.watermark is not None and now - maturing.watermark > 1.1 * plan.matures_after:
        ill.append(f"watermark: stands still for {now - maturing.watermark:.0f} s; a unit neither ends nor expires")
    return ill

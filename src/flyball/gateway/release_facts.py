"""What the store knows of a canary beside its sessions' labels: its shadow, records that were lost, distance, quality.

The gates `shadow_agreement`, `telemetry_loss`, `policy_kl_drift` and `task_completion_quality` rest on it
(`release/online.py`). Each is about the release under way: what was shadowed before users met it, its own sessions in
canary and holdback, and records counted since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flyball.gateway.grading import BY
from flyball.gateway.release_sessions import release_sessions
from flyball.gateway.shadow_facts import shadowed_sessions
from flyball.gateway.watching import distances
from flyball.release.gate import TWO_SIDED
from flyball.release.live import LEAST_SCORED, Counted
from flyball.release.routing import RoutingTable
from flyball.release.shadow import Shadowed
from flyball.stats.intervals import mean_interval, ratio_interval
from flyball.stats.shares import independent_difference
from flyball.store.ingest import Reconciliation
from flyball.store.served import Fact
from flyball.store.store import Store
from flyball.types import Estimate

ARMS = ("canary", "holdback")


@dataclass(frozen=True)
class ReleaseFacts:
    """`telemetry`: records that arrived of those that were sent, by arm. `kl`: nats per token of the canary; `quality`:
    canary less holdback; None below `LEAST_SCORED` sessions (of each arm). `scored` and `graded`: of an arm's sessions
    those that have a distance, and a grade of the newest graders. `shadow`: see `shadow_facts.py`."""

    telemetry: Mapping[str, Counted]
    kl: Estimate | None
    quality: Estimate | None
    scored: Counted
    graded: Mapping[str, Counted]
    shadow: Shadowed


def release_facts(
    store: Store, table: RoutingTable, *, since: float, now: float, reference: str | None = None
) -> ReleaseFacts:
    """What is known at `now` of the release of `table`, whose canary began at `since` (seconds since 1970).

    `reference`: the version id whose distance counts (None = the one that was scored last). Raises StoreError.
    """
    told = [fact for fact in store.feedback() if fact.at < now]
    sessions = [one for one in release_sessions(store, table) if one.assigned_at < now]
    arms = {arm: [one.session_id for one in sessions if one.arm == arm] for arm in ARMS}
    clusters = {one.session_id: one.key for one in sessions}
    far = distances(told, reference)
    grades = _newest_grades(told)
    scored = [name for name in arms["canary"] if name in far]
    graded = {arm: [name for name in names if name in grades] for arm, names in arms.items()}
    kl = quality = None
    if len(scored) >= LEAST_SCORED:
        kl = ratio_interval(
            [far[name][0] for name in scored],
            [far[name][1] for name in scored],
            clusters=[clusters[name] for name in scored],
            level=TWO_SIDED,
            unit="nats/token",
        )
    if min(map(len, graded.values())) >= LEAST_SCORED:
        quality = independent_difference(*(_mean(graded[arm], grades, clusters) for arm in ARMS))
    return ReleaseFacts(
        telemetry=telemetry_since(store.reconciliations(), since=since, now=now),
        kl=kl,
        quality=quality,
        scored=Counted(len(scored), len(arms["canary"])),
        graded={arm: Counted(len(graded[arm]), len(names)) for arm, names in arms.items()},
        shadow=shadowed_sessions(store, table, now=now),
    )


def telemetry_since(counts: Iterable[Reconciliation], *, since: float, now: float) -> dict[str, Counted]:
    """Records that arrived of those that were sent, by arm of the experiment, in the counters read from `since` to
    `now`. Counters add up as long as a spool is open, so what was counted before `since` is taken off.

    An arm without a counter is left out: nothing is known of what it sent.
    """
    before: dict[tuple[str, int, str, str], Reconciliation] = {}
    after: dict[tuple[str, int, str, str], Reconciliation] = {}
    for one in counts:  # the oldest first
        at = datetime.fromisoformat(one.at).timestamp()
        if one.arm in ARMS and at <= now:
            (before if at < since else after)[one.spool, one.life, one.kind, one.arm] = one
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for key, last in after.items():
        first = before.get(key)
        sums[last.arm][0] += last.found - (first.found if first else 0)
        sums[last.arm][1] += last.accepted - (first.accepted if first else 0)
    return {arm: Counted(min(found, sent), sent) for arm, (found, sent) in sums.items()}


def _newest_grades(told: Sequence[Fact]) -> dict[str, float]:
    """Score by session, of the graders that graded last: those of different graders are never compared."""
    grades = [fact for fact in told if fact.facts.get("by") == BY and fact.score is not None]
    version = grades[-1].facts["grader"] if grades else None
    return {
        f"{fact.project}~{fact.session}": float(fact.score or 0.0) for fact in grades if fact.facts["grader"] == version
    }


def _mean(names: Sequence[str], grades: Mapping[str, float], clusters: Mapping[str, str]) -> Estimate:
    keys = [clusters[name] for name in names]
    return mean_interval([grades[name] for name in names], clusters=keys, level=TWO_SIDED, unit="score")

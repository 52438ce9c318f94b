"""From served sessions to blocks: the only way that evidence enters a canary.

Failures often surface later than successes, so a test fed with labels as they arrive sees a bad candidate as a good
one. Three rules prevent that:

- units enter in the order of their assignment, and only after all earlier units entered (the watermark);
- a unit enters when it is labelled or when its deadline passed, and what is missing then has a declared meaning: for
  rollback it counts as failed in both arms, for promotion as failed in the canary and as solved in the holdback;
- a label that arrives after the deadline, and a second label, change nothing (they are counted).

A block is the shortest run of consecutive units with `units_per_arm` of each arm. Arms are drawn by a fair coin inside
the experiment, so an equal candidate's difference within a block is symmetric whatever the traffic does: load, mix and
the habits of users may drift, and heavy users may bring many sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.stats.design import Floats, Ints

Arm = Literal["canary", "holdback"]


@dataclass(frozen=True)
class Label:
    """A verdict on a session. `received_at` is the time of our own clock, never one the sender claims."""

    success: bool
    received_at: float


@dataclass(frozen=True)
class ServedSession:
    """One session of the experiment. Times are seconds of one clock; `ended_at` is None while it runs.

    `key` is what the arm was drawn by. `override`: a person took over before the session ended (a later correction is a
    label). `critical` marks an event that is never weighed against benefits, `unsafe` any
    confirmed breach of policy.
    """

    session_id: str
    key: str
    arm: Arm
    assigned_at: float
    ended_at: float | None = None
    labels: tuple[Label, ...] = ()
    override: bool = False
    tool_error: bool = False
    unsafe: bool = False
    critical: bool = False
    cost_usd: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class MatureUnit:
    """One observation: the means over the sessions of a unit. `missing`: the share that had no label in time."""

    key: str
    arm: Arm
    failed: float
    missing: float
    override: float
    tool_error: float
    unsafe: bool
    cost_usd: float
    seconds: float


@dataclass(frozen=True)
class Maturing:
    """Units that count, in assignment order, and what is known about the rest.

    `watermark` is the assignment time of the first unit that waits, None when none does; `late_labels` counts the
    labels that changed nothing.
    """

    units: tuple[MatureUnit, ...]
    waiting: int
    watermark: float | None
    late_labels: int


def mature(sessions: Iterable[ServedSession], plan: CanaryPlan, now: float) -> Maturing:
    """The units whose turn has come at time `now`. Raises ReleaseError when a key was served by both arms."""
    ordered = sorted(sessions, key=lambda s: (s.assigned_at, s.session_id))
    _check_arms(ordered)
    groups = _by_unit(ordered, plan)
    units: list[MatureUnit] = []
    late = sum(max(0, len(s.labels) - (_label(s, plan) is not None)) for s in ordered)
    for index, group in enumerate(groups):
        if not _is_due(group, plan, now):
            return Maturing(tuple(units), len(groups) - index, group[0].assigned_at, late)
        units.append(_unit(group, plan))
    return Maturing(tuple(units), 0, None, late)


def _check_arms(sessions: Sequence[ServedSession]) -> None:
    arms: dict[str, Arm] = {}
    for session in sessions:
        if (
            not all(map(math.isfinite, (session.cost_usd, session.seconds, session.assigned_at)))
            or session.cost_usd < 0
        ):
            raise ReleaseError(
                f"session {session.session_id}: cost {session.cost_usd}, {session.seconds} s, assigned at "
                f"{session.assigned_at}: each must be a finite number; repair the record first"
            )
        if any(not label.received_at >= session.assigned_at for label in session.labels):
            raise ReleaseError(
                f"session {session.session_id}: a label was received before the session was assigned, at "
                f"{session.assigned_at}; labels carry the time of our own clock. Repair the record first"
            )
        if arms.setdefault(session.key, session.arm) != session.arm:
            raise ReleaseError(
                f"{session.key!r} was served by both arms, so nothing can be said about either; arms are drawn by "
                "this key and stay. Find what moved it before judging"
            )


def _by_unit(sessions: Sequence[ServedSession], plan: CanaryPlan) -> list[list[ServedSession]]:
    """Sessions of one unit together, units in the order of their first assignment."""
    if plan.unit == "session":
        return [[session] for session in sessions]
    groups: dict[str, list[ServedSession]] = {}
    for session in sessions:
        group = groups.setdefault(session.key, [])
        if not group or session.assigned_at <= group[0].assigned_at + plan.user_window:
            group.append(session)
    return list(groups.values())


def _label(session: ServedSession, plan: CanaryPlan) -> bool | None:
    in_time = [label for label in session.labels if label.received_at <= session.assigned_at + plan.label_deadline]
    return min(in_time, key=lambda label: label.received_at).success if in_time else None


def _is_due(group: Sequence[ServedSession], plan: CanaryPlan, now: float) -> bool:
    if now >= group[0].assigned_at + plan.matures_after:
        return True
    ended = all(s.ended_at is not None and s.ended_at <= now for s in group)
    return plan.unit == "session" and ended and any(label.received_at <= now for label in group[0].labels)


def _unit(group: Sequence[ServedSession], plan: CanaryPlan) -> MatureUnit:
    labels = [_label(session, plan) for session in group]
    n = len(group)
    return MatureUnit(
        key=group[0].key,
        arm=group[0].arm,
        failed=sum(label is False for label in labels) / n,
        missing=sum(label is None for label in labels) / n,
        override=sum(s.override for s in group) / n,
        tool_error=sum(s.tool_error for s in group) / n,
        unsafe=any(s.unsafe for s in group),
        cost_usd=min(sum(s.cost_usd for s in group) / n, plan.cost_cap),
        seconds=sum(s.seconds for s in group) / n,
    )


@dataclass(frozen=True)
class Blocks:
    """Runs of consecutive units with both arms in each: `canary[i]` and `holdback[i]` are the units of block i.

    `units` are all of them in assignment order; block i ends before unit `ends[i]`, [n].
    """

    units: tuple[MatureUnit, ...]
    ends: Ints
    canary: tuple[tuple[MatureUnit, ...], ...]
    holdback: tuple[tuple[MatureUnit, ...], ...]

    def __len__(self) -> int:
        return len(self.canary)

    def means(self, arm: Arm, of: Callable[[MatureUnit], float]) -> Floats:
        """The mean of `of` over the units of this arm in each block, [n]."""
        return np.asarray([sum(map(of, block)) / len(block) for block in getattr(self, arm)], np.float64)

    def harm(self, of: Callable[[MatureUnit], float]) -> Floats:
        """Canary less holdback, [n]; positive when the canary has more of it."""
        return self.means("canary", of) - self.means("holdback", of)


def blocks(units: Sequence[MatureUnit], units_per_arm: int) -> Blocks:
    """Cut units into blocks; an open block at the end waits for its missing arm.

    Where a block ends depends on arms alone, which are drawn without regard to outcomes.
    """
    arms: dict[Arm, list[MatureUnit]] = {"canary": [], "holdback": []}
    canary, holdback, ends = [], [], []
    for position, unit in enumerate(units, start=1):
        arms[unit.arm].append(unit)
        if min(map(len, arms.values())) >= units_per_arm:
            canary.append(tuple(arms["canary"]))
            holdback.append(tuple(arms["holdback"]))
            ends.append(position)
            arms = {"canary": [], "holdback": []}
    closed = ends[-1] if ends else 0
    return Blocks(tuple(units[:closed]), np.asarray(ends, np.int64), tuple(canary), tuple(holdback))

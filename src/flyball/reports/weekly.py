"""The weekly review: how reliable the agent was, what it cost, who corrected it, how fast every way back was.

Sessions are those users were answered in (shadow is left out), of whole weeks that end at the time of the review. Those
of one id are a cluster, since two versions may have served parts of one. Pure: the records come from the store.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import EvalError
from flyball.stats.intervals import mean_interval, rate_interval
from flyball.stats.reliability import reliability_interval
from flyball.stats.shares import independent_difference
from flyball.stats.written import format_estimate
from flyball.store.audit import Entry
from flyball.types import Estimate, SessionRecord

WEEK = 7 * 24 * 3600.0
LEAST_COVERAGE = 0.8
"""Share of sessions with a label below which a week's score is shown and not judged by: who gets a label is seldom
drawn at random."""
NO_INTENT = "(no intent told)"


@dataclass(frozen=True)
class Week:
    """One week of sessions. `reliability` is None without a label, `tool_precision` without a tool call.

    `tool_precision`: tool calls that did their work, of all; `steps`: planner steps, the model calls of a session: with
    each the agent decides what to do next.
    """

    coverage: Estimate
    reliability: Estimate | None
    override: Estimate
    tool_precision: Estimate | None
    steps: Estimate
    cost: Estimate

    @property
    def sessions(self) -> int:
        return self.coverage.n


def by_week(sessions: Iterable[SessionRecord], until: float, count: int) -> tuple[tuple[SessionRecord, ...], ...]:
    """The sessions of the last `count` whole weeks that end at `until` (seconds since 1970), the oldest week first.

    A week holds its first moment and not its last. Raises EvalError for a session whose time is not known.
    """
    if count < 1:
        raise EvalError(f"{count} weeks cannot be reviewed; ask for 1 or more")
    by_age: defaultdict[int, list[SessionRecord]] = defaultdict(list)
    for session in of_users(sessions):
        by_age[math.ceil((until - _at(session)) / WEEK) - 1].append(session)
    return tuple(tuple(by_age[age]) for age in reversed(range(count)))


def of_users(sessions: Iterable[SessionRecord]) -> list[SessionRecord]:
    """Those that a user was answered in."""
    return [session for session in sessions if session.arm != "shadow"]


def week_of(sessions: Sequence[SessionRecord]) -> Week | None:
    """The numbers of one week's sessions, None where there are none."""
    if not sessions:
        return None
    ids = [session.session_id for session in sessions]
    known = np.array([session.outcome is not None for session in sessions], np.float64)
    won = np.array([session.outcome is True for session in sessions], np.float64)
    overridden = np.array([session.human_override for session in sessions], np.float64)
    tools = np.array([session.tool_calls_count for session in sessions], np.float64)
    errors = np.array([session.tool_error_count for session in sessions], np.float64)
    score = None
    if known.any():
        score = reliability_interval(won, overridden, errors, tools, labelled=known, clusters=ids)
    return Week(
        coverage=rate_interval(known, clusters=ids),
        reliability=score,
        override=rate_interval(overridden, clusters=ids),
        tool_precision=rate_interval(tools - errors, tools, clusters=ids) if tools.any() else None,
        steps=mean_interval([float(s.context.get("calls", 0)) for s in sessions], clusters=ids, unit="steps"),
        cost=mean_interval([session.cost_usd for session in sessions], clusters=ids, unit="USD"),
    )


# --- the rule --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """Whether training goes on, and why."""

    pause: bool
    reason: str


def advise(reviewed: Sequence[Week | None]) -> Advice:
    """A flat score with rising cost pauses training: the newest week against the oldest one reviewed.

    Rising and not flat are what 95 % intervals prove: the cost rose when its change is above 0, the score is flat as
    long as its change may be 0 or less. So few sessions pause nothing by themselves, and gain that cannot be shown does
    not pay for cost that can.
    """
    if len(reviewed) < 2 or (first := reviewed[0]) is None or (last := reviewed[-1]) is None:
        return Advice(False, "no trend: the rule needs sessions in the newest week and in an earlier one")
    cost = independent_difference(last.cost, first.cost)
    said = f"cost per session {format_estimate(cost, signed=True)}"
    if not cost.low > 0.0:
        return Advice(False, f"no rise of cost is shown: {said}")
    if first.reliability is None or last.reliability is None or not _covered(first, last):
        least = f"{100 * LEAST_COVERAGE:g} %"
        return Advice(True, f"{said}, and too few sessions have a label (below {least}) to show what it bought")
    score = independent_difference(last.reliability, first.reliability)
    said = f"score {format_estimate(score, signed=True)}, {said}"
    return Advice(False, f"the score rose with the cost: {said}") if score.low > 0.0 else Advice(True, f"flat: {said}")


def _covered(*weeks: Week) -> bool:
    return all(week.coverage.value >= LEAST_COVERAGE for week in weeks)


# --- beside it -------------------------------------------------------------------------------------------------------


def overrides_by_intent(sessions: Iterable[SessionRecord]) -> list[tuple[str, Estimate]]:
    """The share of sessions a person corrected, by class of intent, the largest first."""
    by_intent: defaultdict[str, list[SessionRecord]] = defaultdict(list)
    for session in of_users(sessions):
        by_intent[session.intent_class or NO_INTENT].append(session)
    found = [
        (intent, rate_interval([float(s.human_override) for s in of], clusters=[s.session_id for s in of]))
        for intent, of in by_intent.items()
    ]
    return sorted(found, key=lambda row: (-row[1].value, row[0]))


@dataclass(frozen=True)
class Recovery:
    """One rollback: when and why, seconds from the first user on the candidate to the decision, and from there until
    users were seen to be back; both None as long as nobody confirmed it."""

    release: str
    at: float
    reason: str
    detect_seconds: float | None
    restore_seconds: float | None


def recoveries(acts: Iterable[Entry]) -> list[Recovery]:
    """Every rollback in the audit log, the oldest first."""
    entries = list(acts)
    restored = {entry.subject: entry.detail for entry in entries if entry.action == "restored"}
    return [
        Recovery(
            entry.subject,
            entry.at,
            entry.reason,
            restored.get(entry.subject, {}).get("detect_seconds"),
            restored.get(entry.subject, {}).get("restore_seconds"),
        )
        for entry in entries
        if entry.action == "route" and entry.detail["stage"] == "rolled_back"
    ]


def _at(session: SessionRecord) -> float:
    at = session.context.get("at")
    if not isinstance(at, int | float):
        raise EvalError(f"session {session.session_id} has no time (context['at'] is {at!r}); a week cannot be found")
    return float(at)

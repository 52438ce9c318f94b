"""Monitors: what is watched of the version in force once everybody has it. Each name is a definition in this table.

A monitor compares the newest week of a version's sessions with its baseline, the first week in which it served: so it
sees slow change, and what a promotion changed on purpose is no alarm. `policy_kl_drift` needs no baseline, it is a
distance from the frozen reference. An alarm opens an incident and may start a refresh of the training data; it moves no
traffic and promotes nothing, for the world may have changed as well as the policy.

    alarm  <=>  the whole interval of  window - baseline  lies beyond the margin  (Zou and Donner's MOVER)

Each end of an interval errs in one look of 1,000 (`LEVEL`); a monitor of several parts (tools, marks of style) shares
that among them (Bonferroni). Looks overlap, so a monitor whose true change is exactly its margin raises one false alarm
in about 1,000 weeks if it is looked at weekly, and one that did not change hardly ever.

Which monitors look, and with which margin, window and owner, may be said in a workflow file (`monitoring.py`).

    python -m flyball.release.monitors > docs/monitors.md
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flyball.graders.safety import refuses
from flyball.metrics import METRICS
from flyball.release.gate import Owner
from flyball.stats.intervals import mean_interval, rate_interval, ratio_interval
from flyball.stats.shares import independent_difference
from flyball.types import Estimate, SessionRecord

DAY = 24 * 3600.0
BASELINE = 7 * DAY
"""Seconds from the first session of a version that are its baseline."""
LEAST = 30
"""Sessions on each side below which nothing is said."""
LEVEL = 0.998


@dataclass(frozen=True)
class LiveSession:
    """One session as monitors see it; None = not known. `tools`: names that were called; `score`: of the graders on
    [0, 1]; `kl`: sum of k3 in nats and number of the sampled tokens that were scored again."""

    record: SessionRecord
    answer: str | None = None
    tools: frozenset[str] | None = None
    score: float | None = None
    kl: tuple[float, float] | None = None

    @property
    def at(self) -> float:
        return float(self.record.context["at"])


Parts = Mapping[str, tuple[float, float]]
"""By part ("" = the monitor is one number): what a session adds above and below the line of a rate."""


@dataclass(frozen=True)
class Monitor:
    """One definition. `measure` gives a session's parts, None where it cannot be measured in it; `needs` says what it
    is measured on. `margin` is in shares of 1 (0.03 is 3 points) or nats, where `relative` a share of the baseline."""

    name: str
    what: str
    owner: Owner
    turns: Literal["rises", "falls", "changes"]
    margin: float
    measure: Callable[[LiveSession], Parts | None]
    needs: str
    relative: bool = False
    absolute: bool = False
    lag: float = 0.0
    """seconds: sessions younger than that are not looked at yet"""
    window_days: float = 7.0

    @property
    def window(self) -> str:
        days = f"{self.window_days:g} days"
        return f"{days}, the newest {self.lag / DAY:g} left out" if self.lag else days

    @property
    def unit(self) -> str:
        return METRICS[self.name].unit

    @property
    def baseline(self) -> str:
        return "the frozen reference" if self.absolute else "the version's first 7 days"

    @property
    def alarm(self) -> str:
        """The rule in words."""
        return f"is above {self.written()}" if self.absolute else f"{self.turns} by more than {self.written()}"

    def written(self) -> str:
        """The margin as people read it."""
        if self.absolute:
            return f"{self.margin:g} {self.unit}"
        return f"{100 * self.margin:g} {'%' if self.relative else 'points'}"


# --- what is measured ------------------------------------------------------------------------------------------------

_STYLE: Mapping[str, re.Pattern[str]] = {
    "list": re.compile(r"^\s*([-*•]|\d+[.)])\s", re.MULTILINE),
    "heading": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "bold": re.compile(r"\*\*\S"),
    "code": re.compile(r"`"),
    "link": re.compile(r"https?://"),
    "question": re.compile(r"\?\s*$"),
    "exclamation": re.compile("!"),
    "apology": re.compile(r"\b(sorry|apolog|désolé|excus|entschuldig|lo siento)", re.IGNORECASE),
    "emoji": re.compile("[\U0001f300-\U0001faff☀-➿]"),
}
"""Marks of style: whether the last answer of a session has them."""


def _style(one: LiveSession) -> Parts | None:
    answer = one.answer
    return None if answer is None else {name: (float(bool(mark.search(answer))), 1.0) for name, mark in _STYLE.items()}


def _refusal(one: LiveSession) -> Parts | None:
    return None if one.answer is None else {"": (float(refuses(one.answer)), 1.0)}


def _tool_mix(one: LiveSession) -> Parts | None:
    return None if one.tools is None else dict.fromkeys(one.tools, (1.0, 1.0))


def _tool_errors(one: LiveSession) -> Parts | None:
    record = one.record
    return {"": (record.tool_error_count, record.tool_calls_count)} if record.tool_calls_count else None


def _cost(one: LiveSession) -> Parts | None:
    record = one.record
    return None if record.outcome is None else {"": (record.cost_usd, float(record.outcome))}


_SESSIONS = "sessions of the arm stable"
_WORDS = "what was said in them (bodies that are kept)"
_TABLE = (
    Monitor(
        "human_override_rate",
        "sessions that a person corrected, took over or stopped, of all",
        "Product",
        "rises",
        0.03,
        lambda one: {"": (float(one.record.human_override), 1.0)},
        _SESSIONS,
    ),
    Monitor("tool_error_rate", "tool calls that failed, of all", "Platform", "rises", 0.03, _tool_errors, "tool calls"),
    Monitor(
        "missing_rate",
        "sessions without an outcome, of all; labels have 2 days to come",
        "ML",
        "rises",
        0.10,
        lambda one: {"": (float(one.record.outcome is None), 1.0)},
        _SESSIONS,
        lag=2 * DAY,
    ),
    Monitor(
        "latency_seconds",
        "seconds from the first call of a session to its last answer, mean",
        "Platform",
        "rises",
        0.15,
        lambda one: {"": (one.record.duration_ms / 1000.0, 1.0)},
        _SESSIONS,
        relative=True,
    ),
    Monitor(
        "cost_per_success_usd",
        "dollars of all sessions with an outcome, per success",
        "Product",
        "rises",
        0.10,
        _cost,
        "sessions with an outcome",
        relative=True,
    ),
    Monitor(
        "policy_kl_drift",
        "k3 of sampled live tokens against the frozen reference, scored again in the background",
        "ML",
        "rises",
        0.05,
        lambda one: None if one.kl is None else {"": one.kl},
        "token ids of live sessions, scored by `flyball monitors rescore`",
        absolute=True,
    ),
    Monitor(
        "task_completion_quality",
        "mean score that the graders gave to sampled sessions",
        "Product",
        "falls",
        0.03,
        lambda one: None if one.score is None else {"": (one.score, 1.0)},
        "sessions graded by `flyball grade-live`",
    ),
    Monitor(
        "length_drift",
        "sampled tokens of a session, mean",
        "ML",
        "changes",
        0.20,
        lambda one: {"": (float(one.record.tokens_out), 1.0)},
        _SESSIONS,
        relative=True,
    ),
    Monitor("tool_mix_drift", "sessions that call a tool, of all, by tool", "ML", "changes", 0.10, _tool_mix, _WORDS),
    Monitor(
        "refusal_drift", "sessions whose last answer refuses, of all", "Product", "changes", 0.03, _refusal, _WORDS
    ),
    Monitor(
        "style_drift", "last answers with a mark of style, of all, by mark", "Product", "changes", 0.10, _style, _WORDS
    ),
)

MONITORS: Mapping[str, Monitor] = {monitor.name: monitor for monitor in _TABLE}
"""The names that may stand under `monitoring` in a workflow, with their defaults."""
MAY_BE_SET = ("margin", "window_days", "owner")


def changed(monitor: Monitor) -> dict[str, Any]:
    """What was set otherwise than the table has it: key -> value in force."""
    default = MONITORS[monitor.name]
    now = {key: getattr(monitor, key) for key in MAY_BE_SET}
    return {key: value for key, value in now.items() if value != getattr(default, key)}


def told_changes(monitor: Monitor) -> str:
    """The same in words, "" where nothing was set."""
    default, now = MONITORS[monitor.name], changed(monitor)
    return ", ".join(f"{key} {_plain(value)} instead of {_plain(getattr(default, key))}" for key, value in now.items())


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


# --- what is found ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What a monitor found. `now` and `before`: window and baseline, of the part that changed most; `coverage`: of the
    window's sessions those that it could be measured in."""

    monitor: Monitor
    state: Literal["quiet", "alarm", "not_evaluable"]
    reason: str
    part: str = ""
    now: Estimate | None = None
    before: Estimate | None = None
    coverage: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Watched:
    """The sessions of one version until `now`: its baseline, and those after it, among which a window is."""

    version: str
    baseline: tuple[LiveSession, ...]
    after: tuple[LiveSession, ...]
    now: float


def watched(sessions: Sequence[LiveSession], version: str, now: float) -> Watched:
    """Choose the sessions of a version before `now` (seconds since 1970); those of canary, holdback and shadow are left
    out."""
    own = [
        one for one in sessions if (one.record.policy_version, one.record.arm) == (version, "stable") and one.at < now
    ]
    until = min((one.at for one in own), default=now) + BASELINE
    return Watched(
        version, tuple(one for one in own if one.at < until), tuple(one for one in own if one.at >= until), now
    )


def read_monitor(monitor: Monitor, of: Watched) -> Reading:
    """Compare window and baseline. `not_evaluable` says what is missing."""
    begins, ends = of.now - monitor.window_days * DAY, of.now - monitor.lag
    window = tuple(one for one in of.after if begins <= one.at < ends)
    everything = window or of.baseline if monitor.absolute else window
    known, known_before = _measured(monitor, everything), _measured(monitor, of.baseline)
    coverage = (len(known), len(everything))

    def missing(reason: str) -> Reading:
        return Reading(monitor, "not_evaluable", reason, coverage=coverage)

    if not monitor.absolute and not everything:
        begun = f"{len(of.baseline)} sessions in the version's first 7 days, {len(of.after)} after them"
        return missing(f"{begun}, none of these in its window: {monitor.window}")
    sides = [known] if monitor.absolute else [known, known_before]
    if (least := min(map(len, sides))) < LEAST:
        return missing(f"{least} of the sessions have it and {LEAST} are needed: it is measured on {monitor.needs}")
    parts = sorted({part for side in sides for _, found in side for part in found})
    if not parts:
        return Reading(monitor, "quiet", "no session has any of it, in the window or before", coverage=coverage)
    level = 1.0 - (1.0 - LEVEL) / len(parts)
    found = [_compare(monitor, part, level, known, known_before) for part in parts]
    worst, part, now, before = max(found, key=lambda one: one[0])
    named = f"{part}: " if part else ""
    against = "" if before is None else f", {_told(before)} in its first week"
    set_otherwise = f" ({told})" if (told := told_changes(monitor)) else ""
    said = f"{named}{_told(now)}{against}; alarm where it {monitor.alarm}{set_otherwise}"
    return Reading(monitor, "alarm" if worst > 0 else "quiet", said, part, now, before, coverage)


Side = Sequence[tuple[str, Parts]]


def _measured(monitor: Monitor, sessions: Sequence[LiveSession]) -> Side:
    found = ((one.record.session_id, monitor.measure(one)) for one in sessions)
    return [(session, parts) for session, parts in found if parts is not None]


def _compare(
    monitor: Monitor, part: str, level: float, side: Side, other: Side
) -> tuple[float, str, Estimate, Estimate | None]:
    """How far beyond the margin the interval lies (below 0: it does not), and both sides."""
    now = _estimate(monitor, part, level, side)
    if monitor.absolute:
        return now.low - monitor.margin, part, now, None
    before = _estimate(monitor, part, level, other)
    beyond = []
    if monitor.turns in ("rises", "changes"):
        beyond.append(_excess(now, _moved(before, monitor, 1.0)))
    if monitor.turns in ("falls", "changes"):
        beyond.append(_excess(_moved(before, monitor, -1.0), now))
    return max(beyond), part, now, before


def _estimate(monitor: Monitor, part: str, level: float, side: Side) -> Estimate:
    rows = [found.get(part, (0.0, 1.0)) for _, found in side]
    ids, above, below = [session for session, _ in side], [row[0] for row in rows], [row[1] for row in rows]
    means = all(one == 1.0 for one in below) and not {0.0, 1.0}.issuperset(above)
    if means:
        return mean_interval(above, clusters=ids, level=level, unit=monitor.unit)
    if monitor.unit == "share":
        return rate_interval(above, below, clusters=ids, level=level)
    return ratio_interval(above, below, clusters=ids, level=level, unit=monitor.unit)


def _moved(estimate: Estimate, monitor: Monitor, sign: float) -> Estimate:
    """The baseline with the margin on top (`sign` 1), or taken off."""
    factor = 1.0 + sign * monitor.margin if monitor.relative else 1.0
    shift = 0.0 if monitor.relative else sign * monitor.margin
    ends = (factor * end + shift for end in (estimate.value, estimate.low, estimate.high))
    value, low, high = ends
    return replace(estimate, value=value, low=low, high=high)


def _excess(higher: Estimate, lower: Estimate) -> float:
    """Lower bound of the difference; of an amount that may be infinite (no success), the gap between the intervals."""
    if math.isfinite(higher.value) and math.isfinite(lower.value):
        return independent_difference(higher, lower).low
    return higher.low - lower.high if math.isfinite(lower.high) else -math.inf


def _told(estimate: Estimate) -> str:
    scale, unit = (100.0, "%") if estimate.unit == "share" else (1.0, estimate.unit)
    value, low, high = (f"{scale * end:.3g}" for end in (estimate.value, estimate.low, estimate.high))
    return f"{value} {unit} [{low}, {high}], n={estimate.n}"


# --- the page --------------------------------------------------------------------------------------------------------


def markdown() -> str:
    """The table as the page `docs/monitors.md`."""
    lines = [
        "# Monitors",
        "",
        "Made by `python -m flyball.release.monitors > docs/monitors.md`; change `src/flyball/release/monitors.py`.",
        "",
        "Each name under `monitoring` in a workflow file is one of these definitions; another name is refused where",
        "the file is read. `flyball monitors watch FILE` looks, see [reviews.md](reviews.md). A file without the list",
        "watches all of them, a list watches those in it. What the table says holds unless an entry is written out:",
        "",
        "```yaml",
        "monitoring: [human_override_rate, {metric: tool_error_rate, margin: 0.05, window_days: 14, owner: ML}]",
        "```",
        "",
        "`margin` is above 0 (the direction is the monitor's own) and in shares of 1: 0.03 is 3 points, 0.15 is 15 %;",
        "of `policy_kl_drift` it is nats/token. `window_days` is above 0, and above what is left out. What was set is",
        "printed beside the state of the monitor and kept in the incident of its alarm. No safety rule rests on a",
        "monitor (the gate `no_safety_regression`, critical events of a canary and the gateway's checks are not among",
        "them), so any may be left out.",
        "",
        "The window is the newest days of the version in force, outside its baseline. An alarm is raised when the",
        f"whole interval of the change lies beyond the margin ({100 * LEVEL:g} %, shared among parts).",
        f"Below {LEAST} sessions on a side, or without what it is measured on, a monitor is `not_evaluable`. An alarm",
        "opens an incident; it changes no routing and promotes nothing.",
        "",
        "| name | unit | what | measured on | window | baseline | alarm | owner |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{one.name}` | {one.unit} | {one.what} | {one.needs} | {one.window} | {one.baseline} | {one.alarm} |"
        f" {one.owner} |"
        for one in _TABLE
    ]
    lines += ["", f"Marks of style: {', '.join(_STYLE)}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())

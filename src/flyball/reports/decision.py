"""The decision page: is it worth it, is it good, is it fast, can it be believed, and in which phase does that put us?

    validation    does it work on tasks that count?        ends with a release that passes every offline gate
    reliability   does it hold with users?                 ends with one that serves everybody, stable and measured
    expansion     does it carry the next workflow?         goes on as long as no stop rule speaks

Everything comes from the store: releases, the audit log and the sessions that were served. A rule without evidence is
not met. Where a stop rule speaks, the phase stands still, whatever else is met; those of users and incidents hold for
expansion as they do for reliability. What a success is worth and the margin rule come from the workflow file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flyball.config import EconomicsSettings
from flyball.release.incidents import incidents
from flyball.release.replay import replay_release
from flyball.release.routing import RoutingTable
from flyball.release.verdict import is_ready
from flyball.reports.budget import LINES, UnitEconomics, empty_lines, unit_economics
from flyball.reports.economics import cost_change
from flyball.reports.expansion import STABLE_WEEKS, Rule, expansion_rules, standing_rules
from flyball.reports.render import render
from flyball.reports.weekly import LEAST_COVERAGE, WEEK, Week, by_week, recoveries, week_of
from flyball.stats.binomial import wilson
from flyball.stats.intervals import mean_interval, ratio_interval
from flyball.stats.written import NO_VALUE, format_estimate
from flyball.store.audit import Entry
from flyball.store.store import Store
from flyball.types import Estimate, GateState, Release, SessionRecord

DAY = 24 * 3600.0

HOLDS: Mapping[GateState, str] = {"pass": "yes", "fail": "not yet", "not_evaluable": "not known"}
"""Whether what ends a phase holds, in a reader's words."""
SPEAKS: Mapping[GateState, str] = {"pass": "silent", "fail": "stop", "not_evaluable": "not known"}
"""What a stop rule says."""


@dataclass(frozen=True)
class Answer:
    """One number of the frame with its n and interval, or why there is none."""

    question: str
    found: str


@dataclass(frozen=True)
class Phase:
    """`ends`: what must hold to leave it. `stops`: rules that stand while it lasts; one that fails stops it."""

    name: str
    question: str
    ends: tuple[Rule, ...]
    stops: tuple[Rule, ...]

    @property
    def done(self) -> bool:
        return bool(self.ends) and all(rule.state == "pass" for rule in self.ends)

    @property
    def stopped(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.stops if rule.state == "fail")


@dataclass(frozen=True)
class Decision:
    """The frame by heading, and the phases in order."""

    date: str
    weeks: int
    frame: tuple[tuple[str, tuple[Answer, ...]], ...]
    phases: tuple[Phase, ...]

    @property
    def here(self) -> Phase:
        """The first phase that is not done; the last one never is."""
        return next((phase for phase in self.phases if not phase.done), self.phases[-1])

    @property
    def stopped(self) -> tuple[Rule, ...]:
        """Stop rules that speak in this phase or one before it."""
        until = self.phases.index(self.here) + 1
        spoken = (rule for phase in self.phases[:until] for rule in phase.stopped)
        return tuple(dict.fromkeys(spoken))  # a rule of two phases speaks once

    @property
    def open(self) -> tuple[Rule, ...]:
        """What is missing to leave the phase."""
        return tuple(rule for rule in self.here.ends if rule.state != "pass")


def decide_on(
    store: Store, *, weeks: int, now: float, budget: EconomicsSettings, project: str | None = None
) -> Decision:
    """Work the page out from the record: sessions of the last whole weeks before `now`, releases and acts of all time.

    `budget`: what a success is worth, the margin rule and what is paid beside serving. Raises EvalError for a session
    without a time.
    """
    served = store.served_sessions(project=project, since=now - weeks * WEEK)
    by = by_week(served, now, weeks)
    reviewed = [week_of(sessions) for sessions in by]
    acts = [entry for entry in store.acts() if entry.at <= now]
    releases = store.releases()
    everything = [session for of_week in by for session in of_week]
    paid = unit_economics(everything, budget, weeks * WEEK / DAY) if everything else None
    frame = (
        ("Economics: is it worth it?", (*_economics(by), *_worth(paid, budget))),
        ("Quality: is it good?", _quality(reviewed[-1])),
        ("Velocity: is it fast?", _velocity(store, releases, acts)),
        ("Credibility: can it be believed?", _credibility(store, releases, acts)),
    )
    phases = (
        _validation(releases, acts),
        _reliability(releases, acts, reviewed, standing_rules(store, reviewed, now), now),
        Phase("expansion", "Does it carry the next workflow?", (), expansion_rules(store, reviewed, paid, budget, now)),
    )
    return Decision(datetime.fromtimestamp(now, UTC).date().isoformat(), weeks, frame, phases)


def decision_html(decision: Decision) -> str:
    """One page, self-contained."""
    return render("decision.html", page=decision, holds=HOLDS, speaks=SPEAKS)


# --- the frame -------------------------------------------------------------------------------------------------------


def _economics(by: Sequence[Sequence[SessionRecord]]) -> tuple[Answer, ...]:
    last = by[-1]
    if not last:
        return (Answer("cost per success, newest week", "no session was served"),)
    won = [float(session.outcome is True) for session in last]
    ids = [session.session_id for session in last]
    price = ratio_interval([s.cost_usd for s in last], won, clusters=ids, unit="USD") if any(won) else None
    answers = [Answer("cost per success, newest week", _said(price) if price else "no success is known")]
    if len(by) > 1 and by[0]:
        change = cost_change(by[0], last)
        answers.append(Answer("change of cost per session that is the agent's own", _said(change.own, signed=True)))
        answers.append(Answer("change that is another workload", _said(change.workload, signed=True)))
    return tuple(answers)


def _worth(paid: UnitEconomics | None, budget: EconomicsSettings) -> tuple[Answer, ...]:
    """What a success earns, what it costs with everything that is paid for it, and what is left."""
    value = budget.value_of_success_usd
    return (
        Answer("value of a success", "not said" if value is None else f"${value:g}"),
        Answer("cost per success with its budget", _said(paid.full if paid else None)),
        Answer("margin per success", _said(paid.margin if paid else None)),
        Answer("lines of the budget that are empty", f"{len(empty_lines(budget))} of {len(LINES)}"),
    )


def _quality(last: Week | None) -> tuple[Answer, ...]:
    if last is None:
        return (Answer("reliability, newest week", "no session was served"),)
    return (
        Answer("reliability: success x (1 - override) x (1 - tool error)", _said(last.reliability)),
        Answer("sessions that a person corrected", _said(last.override)),
        Answer("tool calls that did their work", _said(last.tool_precision)),
    )


def _velocity(store: Store, releases: Sequence[Release], acts: Sequence[Entry]) -> tuple[Answer, ...]:
    tables = [[RoutingTable.from_json(row.body) for row in store.routes(one.release_id)] for one in releases]
    days = [(of[-1].since - of[0].since) / DAY for of in tables if of and of[-1].stage == "general"]
    back = recoveries(acts)
    found = [one.detect_seconds / 3600 for one in back if one.detect_seconds is not None]
    restored = [one.restore_seconds for one in back if one.restore_seconds is not None]
    return (
        Answer("releases that reached everybody, of those judged", _share(len(days), len(releases))),
        Answer("days from shadow to everybody", _mean(days, "days")),
        Answer("hours on the candidate until a rollback", _mean(found, "h")),
        Answer("seconds from the decision until users were back", _mean(restored, "s")),
    )


def _credibility(store: Store, releases: Sequence[Release], acts: Sequence[Entry]) -> tuple[Answer, ...]:
    replayed = [one for release in releases for one in replay_release(store, release.release_id)]
    drills = [entry.detail["verified"] for entry in acts if entry.action == "drill"]
    closed = [incident.closed_at is not None for incident in incidents(store)]
    return (
        Answer("decisions that come out the same again", _share(sum(not r.problem for r in replayed), len(replayed))),
        Answer("rehearsals of the way back that were verified", _share(sum(drills), len(drills))),
        Answer(
            "incidents closed with a cause from each role",
            _share(sum(closed), len(closed)),
        ),
        Answer("gates waived; entries of the audit log", f"{sum(e.action == 'waiver' for e in acts)}; {len(acts)}"),
    )


def _said(estimate: Estimate | None, *, signed: bool = False) -> str:
    return NO_VALUE if estimate is None else format_estimate(estimate, signed=signed)


def _share(part: int, of: int) -> str:
    return f"{part} of {of}: {format_estimate(wilson(part, of))}" if of else "none yet"


def _mean(values: Sequence[float], unit: str) -> str:
    return format_estimate(mean_interval(values, unit=unit)) if values else "none yet"


# --- the phases ------------------------------------------------------------------------------------------------------


def _validation(releases: Sequence[Release], acts: Sequence[Entry]) -> Phase:
    ready = [one for one in releases if is_ready(one.verdict)]
    verified = [entry for entry in acts if entry.action == "drill" and entry.detail["verified"]]
    newest = releases[-1] if releases else None
    failed = [gate.name for gate in newest.gates if gate.state == "fail"] if newest else []
    return Phase(
        "validation",
        "Does it work on tasks that count?",
        (
            Rule.held("a release passes every offline gate", bool(ready), f"{len(ready)} of {len(releases)} releases"),
            Rule.held("the way back was rehearsed and verified", bool(verified), f"{len(verified)} rehearsals"),
        ),
        (
            Rule(
                "stop when a gate fails on the newest candidate",
                "not_evaluable" if newest is None else "fail" if failed else "pass",
                "nothing was judged" if newest is None else ", ".join(failed) or "none fails",
            ),
        ),
    )


def _reliability(
    releases: Sequence[Release],
    acts: Sequence[Entry],
    reviewed: Sequence[Week | None],
    standing: tuple[Rule, ...],
    now: float,
) -> Phase:
    general = [one for one in releases if one.stage == "general"]
    last = reviewed[-1]
    troubles = [e for e in acts if e.action in ("gate_failed", "incident_opened") and e.at > now - STABLE_WEEKS * WEEK]
    return Phase(
        "reliability",
        "Does it hold with users?",
        (
            Rule.held("a release serves everybody", bool(general), f"{len(general)} of {len(releases)} releases"),
            Rule(
                f"at least {100 * LEAST_COVERAGE:g} % of the newest week's sessions have a label",
                "not_evaluable" if last is None else "pass" if last.coverage.value >= LEAST_COVERAGE else "fail",
                "no session was served" if last is None else format_estimate(last.coverage),
            ),
            Rule.held("a week without a failed gate or a new incident", not troubles, f"{len(troubles)} in that week"),
        ),
        standing,
    )

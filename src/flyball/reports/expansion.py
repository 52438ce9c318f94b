"""The stop rules, each judged in one place: those of users and incidents, and those of an adjacent workflow.

The decision page shows them and `flyball workflow clone` obeys them. A rule without evidence is not met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyball.config import EconomicsSettings
from flyball.release.standing import frozen, open_incidents
from flyball.reports.budget import UnitEconomics, empty_lines, optimistic
from flyball.reports.weekly import WEEK, Week, advise, recoveries
from flyball.stats.written import format_estimate
from flyball.store.store import Store
from flyball.types import GateState

STABLE_WEEKS = 1
"""Weeks without a failed gate or a new incident that end a freeze, as in a plan's default."""
NOT_SAID = "not said in a workflow file (--workflow)"


@dataclass(frozen=True)
class Rule:
    """A rule of a phase and what the record says to it."""

    text: str
    state: GateState
    found: str

    @classmethod
    def held(cls, text: str, holds: bool, found: str) -> Rule:
        """A rule that the record can answer."""
        return cls(text, "pass" if holds else "fail", found)


def standing_rules(store: Store, reviewed: Sequence[Week | None], now: float) -> tuple[Rule, ...]:
    """Stop rules from the first user on. `reviewed`: the weeks until `now` (seconds since 1970), the oldest first."""
    advice = advise(reviewed)
    against, ice = open_incidents(store), frozen(store, STABLE_WEEKS, now)
    return (
        Rule.held("stop while an incident is open", not against, "; ".join(against) or "none is open"),
        Rule.held("stop after two failed gates within a week", not ice, "; ".join(ice) or "not frozen"),
        Rule.held("pause training when cost rises and the score does not", not advice.pause, advice.reason),
    )


def expansion_rules(
    store: Store,
    reviewed: Sequence[Week | None],
    paid: UnitEconomics | None,
    budget: EconomicsSettings,
    now: float,
) -> tuple[Rule, ...]:
    """Every stop rule of an adjacent workflow. `paid`: of the sessions of these weeks, None where there were none."""
    begins = now - len(reviewed) * WEEK
    back = [
        f"release {one.release[:12]} was rolled back: {one.reason}"
        for one in recoveries(store.acts())
        if begins <= one.at < now  # as the sessions of these weeks
    ]
    return (
        _margin_rule(paid, budget),
        _budget_rule(budget),
        Rule.held(
            "stop when a release was taken back in these weeks",
            not back,
            "; ".join(back) or f"none in {len(reviewed)} weeks",
        ),
        *standing_rules(store, reviewed, now),
    )


def _margin_rule(paid: UnitEconomics | None, budget: EconomicsSettings) -> Rule:
    """Without its two numbers or a session nobody knows what it says."""
    least = budget.least_margin_usd
    if budget.value_of_success_usd is None or least is None:
        text = "stop unless the margin per success is above the least one"
        return Rule(text, "not_evaluable", f"the value of a success and the least margin: {NOT_SAID}")
    text = f"stop unless the whole interval of the margin per success is above ${least:g}"
    if paid is None or paid.margin is None:
        return Rule(text, "not_evaluable", "no session was served")
    return Rule.held(text, paid.pays, format_estimate(paid.margin))


def _budget_rule(budget: EconomicsSettings) -> Rule:
    text, empty = "stop while a line of the budget is empty", optimistic(empty_lines(budget))
    if budget == EconomicsSettings():
        return Rule(text, "not_evaluable", f"the budget: {NOT_SAID}")
    return Rule.held(text, not empty, empty or "every line is filled in")

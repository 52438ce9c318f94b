"""What a success costs with everything that is paid for it, what it earns, and whether that carries another workflow.

    cost per success = (sum of session costs + budget of the period) / successes
    margin           = value of a success - cost per success

A session without an outcome is no success and its cost counts, so labels that are missing never make it cheaper. A line
of the budget that is empty counts as nothing, which makes the whole *optimistic by default*; a line that is 0 was said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flyball.config import EconomicsSettings
from flyball.errors import EvalError
from flyball.stats.intervals import ratio_interval
from flyball.types import Estimate, SessionRecord

LINES: Mapping[str, str] = {
    "labelling": "labelling and relabelling",
    "evaluation_upkeep": "evaluation upkeep",
    "incidents": "incidents",
    "rollout_infrastructure": "rollout infrastructure",
    "retries": "retries",
}
"""Lines of the budget, by their key in a workflow file, in words."""
DAYS_A_MONTH = 365.25 / 12


@dataclass(frozen=True)
class UnitEconomics:
    """Per success, in USD. `serving`: sessions alone; `full`: with the budget; `margin`: None without a value of a
    success. `empty`: lines of the budget that nobody filled in, by their key in `LINES`."""

    serving: Estimate
    full: Estimate
    margin: Estimate | None
    least_margin: float | None
    empty: tuple[str, ...]

    @property
    def pays(self) -> bool:
        """Whether the lower bound of the margin is above what the rule asks for. Without value or rule it is not."""
        return self.margin is not None and self.least_margin is not None and self.margin.low > self.least_margin


def empty_lines(budget: EconomicsSettings) -> tuple[str, ...]:
    """The lines that nobody filled in, by their key in `LINES`."""
    return tuple(name for name in LINES if getattr(budget, name) is None)


def optimistic(empty: Sequence[str]) -> str:
    """The sentence on empty lines, "" where there is none."""
    words = ", ".join(LINES[name] for name in empty)
    return f"optimistic by default: nothing is budgeted for {words}" if empty else ""


def unit_economics(sessions: Sequence[SessionRecord], budget: EconomicsSettings, days: float) -> UnitEconomics:
    """Cost and margin per success of the sessions of a period of `days`; those of one id are a cluster.

    Raises EvalError without a session.
    """
    if not sessions:
        raise EvalError("no session was served in this period, so there is no cost per success")
    monthly = sum(getattr(budget, name) or 0.0 for name in LINES)
    share = monthly * days / DAYS_A_MONTH / len(sessions)
    costs = [session.cost_usd for session in sessions]
    won = [float(session.outcome is True) for session in sessions]
    ids = [session.session_id for session in sessions]
    serving = ratio_interval(costs, won, clusters=ids, unit="USD")
    full = ratio_interval([cost + share for cost in costs], won, clusters=ids, unit="USD")
    value = budget.value_of_success_usd
    margin = None
    if value is not None:
        margin = replace(full, value=value - full.value, low=value - full.high, high=value - full.low)
    return UnitEconomics(serving, full, margin, budget.least_margin_usd, empty_lines(budget))


def numbers(economics: UnitEconomics) -> list[tuple[str, Estimate]]:
    """What is shown of unit economics, by name."""
    rows = [("serving", economics.serving), ("cost with its budget", economics.full)]
    return rows if economics.margin is None else [*rows, ("margin", economics.margin)]

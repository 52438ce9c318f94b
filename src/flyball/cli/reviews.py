"""`flyball reviews`: what people look at together, from the record of what was served. Needs no torch."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.reports.economics import CostChange, cost_change
from flyball.reports.tables import NO_VALUE, format_estimate
from flyball.reports.weekly import (
    NO_INTENT,
    WEEK,
    Recovery,
    Week,
    advise,
    by_week,
    overrides_by_intent,
    recoveries,
    week_of,
)
from flyball.types import Estimate

PAUSE = 3


@click.group()
def reviews() -> None:
    """Review what was served: the week's reliability, cost, overrides and rollbacks."""


@reviews.command()
@click.option("--weeks", "count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--project", help="Only of this project.")
@click.option("--now", type=float, help="Seconds since 1970; the last week ends here. Default: now.")
@home_option
@click.pass_context
def weekly(context: click.Context, count: int, project: str | None, now: float | None, home: Path) -> None:
    """Print each week's reliability and cost, the rule on training, whose change of cost it is, overrides, rollbacks.

    Exits 3 when a flat score with rising cost pauses training.
    """
    until = time.time() if now is None else now
    begins = until - count * WEEK
    with open_store(home) as store:
        served = store.served_sessions(project=project, since=begins)
        back = [one for one in recoveries(store.acts()) if begins <= one.at < until]
    sessions = by_week(served, until, count)
    reviewed = [week_of(of_week) for of_week in sessions]
    table(_HEAD, [_row(until - (count - i) * WEEK, week) for i, week in enumerate(reviewed)])
    advice = advise(reviewed)
    click.echo(f"\ntraining: {'pause' if advice.pause else 'goes on'}: {advice.reason}")
    if count > 1 and sessions[0] and sessions[-1]:
        _print_cost(cost_change(sessions[0], sessions[-1]))
    if latest := sessions[-1]:
        click.echo()
        table(["override in the last week", "share"], [[i, _written(e)] for i, e in overrides_by_intent(latest)])
    if back:
        click.echo()
        table(["rollback", "release", "detected after", "restored after", "reason"], [_recovery(one) for one in back])
    if advice.pause:
        context.exit(PAUSE)


_HEAD = ["week from", "sessions", "with a label", "reliability", "override", "tool precision", "calls", "cost"]


def _row(begins: float, week: Week | None) -> list[str]:
    if week is None:
        return [_date(begins), "0", *[NO_VALUE] * (len(_HEAD) - 2)]
    numbers = (week.coverage, week.reliability, week.override, week.tool_precision, week.calls, week.cost)
    return [_date(begins), str(week.sessions), *map(_written, numbers)]


def _print_cost(change: CostChange) -> None:
    click.echo()
    parts = {"all": change.total, "the agent's own": change.own, "another workload": change.workload}
    rows = [[name, format_estimate(part, signed=True)] for name, part in parts.items()]
    table(["cost per session, last week less first", "change"], rows)
    if change.one_sided:
        names = ", ".join(name or NO_INTENT for name in change.one_sided)
        click.echo(f"in one of the two weeks only, so all of it counts as workload: {names}")


def _recovery(one: Recovery) -> list[str]:
    times = ["not confirmed" if t is None else f"{t:.1f} s" for t in (one.detect_seconds, one.restore_seconds)]
    return [_date(one.at), one.release[:12], *times, one.reason]


def _written(estimate: Estimate | None) -> str:
    return NO_VALUE if estimate is None else format_estimate(estimate)


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")

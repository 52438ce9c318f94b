"""`flyball reviews`: what people look at together, from the record of what was served. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from flyball.cli.group import Group
from flyball.cli.options import FINITE, budget_option, home_option, open_store
from flyball.cli.output import table
from flyball.config import EconomicsSettings
from flyball.errors import StoreError
from flyball.gateway.captured import attempt_of, captured_sessions
from flyball.reports.assumptions import DAY, Assumption, assumptions, day_of, record_assumption
from flyball.reports.budget import UnitEconomics, empty_lines, numbers, optimistic, unit_economics
from flyball.reports.economics import CostChange, cost_change
from flyball.reports.review_page import WORST, ReviewPage, review_page_html, sampled, session_example, worst
from flyball.reports.run_page import Example
from flyball.reports.tables import Grid
from flyball.reports.weekly import (
    NO_INTENT,
    WEEK,
    Advice,
    Recovery,
    Week,
    advise,
    by_week,
    of_users,
    overrides_by_intent,
    recoveries,
    week_of,
)
from flyball.stats.written import NO_VALUE, format_estimate
from flyball.store.store import Store
from flyball.types import Estimate, SessionRecord

PAUSE = 3

project_option = click.option("--project", help="Only of this project.")
now_option = click.option("--now", type=FINITE, help="Seconds since 1970; what is reviewed ends here. Default: now.")
html_option = click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here too.")


@click.group(cls=Group)
def reviews() -> None:
    """Review what was served: the week's reliability, cost, overrides and rollbacks."""


# --- every day -------------------------------------------------------------------------------------------------------


@reviews.command()
@click.option("--sample", type=click.IntRange(min=1), default=WORST, show_default=True, help="Traces to look at.")
@html_option
@project_option
@now_option
@home_option
def daily(sample: int, html: Path | None, project: str | None, now: float | None, home: Path) -> None:
    """Draw traces of the last 24 hours for people to read, and show the assumption of the day.

    The draw depends on the day alone, so nobody chooses what is looked at.
    """
    until = _time(now)
    with open_store(home) as store:
        served = _served(store, project, until - DAY, until)
        drawn = sampled(served, day_of(until), sample)
        examples = _examples(store, drawn, project)
        found = [one for one in assumptions(store, since=until - DAY, until=until + DAY) if one.day == day_of(until)]
    note = (
        _assumption(found[0]) if found else "none yet: `flyball reviews assumption TEXT --shown-by SESSION --by NAME`"
    )
    click.echo(f"{len(of_users(served))} sessions in 24 hours, {len(drawn)} drawn")
    _print_examples(examples)
    click.echo(f"assumption invalidated on {day_of(until)}: {note}")
    if html is not None:
        lead = f"{len(drawn)} of {len(of_users(served))} sessions of the last 24 hours, drawn by the day alone."
        page = ReviewPage(
            "Daily review", f"Review of {day_of(until)}", lead, {"assumption invalidated": note}, (), "Traces", examples
        )
        _write(html, page)


@reviews.command()
@click.argument("text")
@click.option("--shown-by", required=True, metavar="SESSION", help="What showed it: a session of the daily page.")
@click.option("--by", required=True, help="Who says so; it is written into the audit log.")
@now_option
@home_option
def assumption(text: str, shown_by: str, by: str, now: float | None, home: Path) -> None:
    """Record the assumption that was invalidated today, one a day."""
    with open_store(home) as store:
        click.echo(_assumption(record_assumption(store, text, shown_by=shown_by, by=by, at=_time(now))))


# --- every week ------------------------------------------------------------------------------------------------------


@reviews.command()
@html_option
@project_option
@now_option
@home_option
def failures(html: Path | None, project: str | None, now: float | None, home: Path) -> None:
    """Tell the five worst sessions of the week from end to end."""
    until = _time(now)
    with open_store(home) as store:
        examples = _examples(store, worst(_served(store, project, until - WEEK, until)), project)
    for one in examples:
        click.echo(f"{one.title}\n  {one.why}")
        for line in one.lines:
            click.echo(f"  {line.kind:>9}  {line.text}")
    click.echo(f"{len(examples)} sessions of the week went wrong and are told" if examples else "nothing went wrong")
    if html is not None:
        lead = "Failed and corrected first, then failed, then corrected, then tool errors."
        page = ReviewPage("Weekly failure review", f"Week to {day_of(until)}", lead, {}, (), "Worst sessions", examples)
        _write(html, page)


@reviews.command()
@click.option("--weeks", "count", type=click.IntRange(min=1), default=4, show_default=True)
@budget_option
@html_option
@project_option
@now_option
@home_option
@click.pass_context
def weekly(
    context: click.Context,
    count: int,
    budget: EconomicsSettings,
    html: Path | None,
    project: str | None,
    now: float | None,
    home: Path,
) -> None:
    """Print each week's reliability and cost, the rule on training, whose change of cost it is, overrides, rollbacks.

    Exits 3 when a flat score with rising cost pauses training.
    """
    until = _time(now)
    with open_store(home) as store:
        review = _review(store, budget, count, until, project)
        examples = _examples(store, worst(review.latest), project) if html else ()
    for grid in review.grids():
        _print_grid(grid)
    click.echo(f"training: {review.training}")
    for name, text in review.notes().items():
        click.echo(f"{name}: {text}")
    if html is not None:
        lead = f"training {review.training}"
        title = f"{count} weeks to {day_of(until)}"
        page = ReviewPage("Weekly review", title, lead, review.notes(), review.grids(), "Worst sessions", examples)
        _write(html, page)
    if review.advice.pause:
        context.exit(PAUSE)


@dataclass(frozen=True)
class _Review:
    """What a weekly review shows, on a terminal and as a page."""

    begins: Sequence[float]
    weeks: Sequence[Week | None]
    advice: Advice
    change: CostChange | None
    latest: Sequence[SessionRecord]
    back: Sequence[Recovery]
    economics: UnitEconomics | None
    empty: Sequence[str]
    assumed: Sequence[Assumption]

    @property
    def training(self) -> str:
        return f"{'pause' if self.advice.pause else 'goes on'}: {self.advice.reason}"

    def notes(self) -> dict[str, str]:
        found = {"budget": optimistic(self.empty) or "every line is filled in"}
        if self.change is not None and self.change.one_sided:
            names = ", ".join(name or NO_INTENT for name in self.change.one_sided)
            found["in one of the two weeks only, so all of it counts as workload"] = names
        days = [_assumption(one) for one in self.assumed]
        found["assumptions invalidated"] = f"{len(days)} in 7 days" + "".join(f"; {day}" for day in days)
        return found

    def grids(self) -> tuple[Grid, ...]:
        dates = tuple(day_of(begins) for begins in self.begins)
        by_measure = zip(_MEASURES, *map(_week, self.weeks), strict=True)
        found = [Grid("Week from", dates, tuple((name, tuple(cells)) for name, *cells in by_measure))]
        if self.change is not None:
            parts = {"all": self.change.total, "the agent's own": self.change.own}
            parts["another workload"] = self.change.workload
            title = "Cost per session, last week less first"
            found.append(Grid(title, ("change",), tuple((n, (p,)) for n, p in parts.items()), signed=frozenset({0})))
        if self.economics is not None:
            rows = tuple((name, (estimate,)) for name, estimate in numbers(self.economics))
            found.append(Grid("Per success, all weeks", ("USD",), rows))
        if self.latest:
            shares = tuple((intent, (share,)) for intent, share in overrides_by_intent(self.latest))
            found.append(Grid("Overrides in the last week, by intent", ("share",), shares))
        if self.back:
            found.append(Grid("Rollbacks", _BACK, tuple(map(_recovery, self.back))))
        return tuple(found)


def _review(store: Store, budget: EconomicsSettings, count: int, until: float, project: str | None) -> _Review:
    begins = until - count * WEEK
    sessions = by_week(store.served_sessions(project=project, since=begins), until, count)
    reviewed = [week_of(of_week) for of_week in sessions]
    everything = [one for week in sessions for one in week]
    economics = unit_economics(everything, budget, count * WEEK / DAY) if everything else None
    return _Review(
        begins=[until - (count - i) * WEEK for i in range(count)],
        weeks=reviewed,
        advice=advise(reviewed),
        change=cost_change(sessions[0], sessions[-1]) if count > 1 and sessions[0] and sessions[-1] else None,
        latest=sessions[-1],
        back=[one for one in recoveries(store.acts()) if begins <= one.at < until],
        economics=economics,
        empty=empty_lines(budget),
        assumed=assumptions(store, since=until - WEEK, until=until),
    )


_MEASURES = ("sessions", "with a label", "reliability", "override", "tool precision", "planner steps", "cost")
_BACK = ("release", "detected after", "restored after", "reason")


def _week(week: Week | None) -> tuple[Estimate | str | None, ...]:
    if week is None:
        return ("0", *[None] * (len(_MEASURES) - 1))
    rates = (week.coverage, week.reliability, week.override, week.tool_precision)
    return (str(week.sessions), *rates, week.steps, week.cost)


def _recovery(one: Recovery) -> tuple[str, tuple[str, ...]]:
    times = ["not confirmed" if t is None else f"{t:.1f} s" for t in (one.detect_seconds, one.restore_seconds)]
    return day_of(one.at), (one.release[:12], *times, one.reason)


def _print_grid(grid: Grid) -> None:
    def cell(value: Estimate | str | None, i: int) -> str:
        if isinstance(value, Estimate):
            return format_estimate(value, signed=i in grid.signed)
        return NO_VALUE if value is None else value

    table([grid.title.lower(), *grid.columns], [[n, *(cell(v, i) for i, v in enumerate(c))] for n, c in grid.rows])
    click.echo()


# --- conversations ---------------------------------------------------------------------------------------------------


def _served(store: Store, project: str | None, since: float, until: float) -> list[SessionRecord]:
    return [one for one in store.served_sessions(project=project, since=since) if one.context["at"] < until]


def _examples(store: Store, records: Sequence[SessionRecord], project: str | None) -> tuple[Example, ...]:
    begins = min((float(one.context["at"]) for one in records), default=0.0)
    said = {
        f"{of}~{name}": calls for (of, name), calls in captured_sessions(store, project=project, since=begins).items()
    }
    told: dict[str, str] = {}
    for fact in store.feedback(project):
        if fact.override and fact.override["kind"] != "approve":
            told[f"{fact.project}~{fact.session}"] = f"{fact.override['kind']}: {fact.override.get('reason', '')}"
    return tuple(
        session_example(
            one, attempt_of(said[one.session_id]) if one.session_id in said else None, told.get(one.session_id, "")
        )
        for one in records
    )


def _print_examples(examples: Sequence[Example]) -> None:
    for one in examples:
        click.echo(f"{one.title}\n  {one.why}")


def _assumption(one: Assumption) -> str:
    return f"{one.text} ({one.day}, shown by {one.shown_by}, {one.by})"


def _write(path: Path, page: ReviewPage) -> None:
    try:
        path.write_text(review_page_html(page), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the page was not written to {path}: {error}") from error
    click.echo(f"page:    {path}")


def _time(now: float | None) -> float:
    return time.time() if now is None else now

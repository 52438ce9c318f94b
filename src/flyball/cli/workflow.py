"""`flyball workflow`: from one workflow to the next. Needs no torch."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flyball.cli.group import Group
from flyball.cli.options import FINITE, home_option, open_store
from flyball.cli.output import table
from flyball.errors import ReleaseError
from flyball.reports.budget import numbers
from flyball.stats.written import format_estimate
from flyball.workflow.clone import clone_file, may_expand


@click.group(cls=Group)
def workflow() -> None:
    """Start an adjacent workflow, once the one that runs pays for it and stands still."""


@workflow.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the adjacent workflow.")
@click.option("--weeks", type=click.IntRange(min=1), default=4, show_default=True, help="Whole weeks that are judged.")
@click.option("--project", help="Project under which SOURCE is served. Default: all.")
@click.option("--now", type=FINITE, help="Seconds since 1970; the last week ends here. Default: now.")
@home_option
def clone(
    source: Path, target: Path, name: str, weeks: int, project: str | None, now: float | None, home: Path
) -> None:
    """Copy the workflow file SOURCE to TARGET if it pays and its standing is stable; else refuse with the numbers.

    The lower bound of its margin per success must be above `economics.least_margin_usd`, its budget complete, no
    incident open, nothing frozen or rolled back in these weeks, and training not paused by a flat score with rising
    cost.
    """
    at = time.time() if now is None else now
    with open_store(home) as store:
        found = may_expand(store, source, weeks=weeks, now=at, project=project)
    table(["per success", "USD"], [[name, format_estimate(one)] for name, one in numbers(found.economics)])
    if found.against:
        raise ReleaseError(f"no adjacent workflow starts from {source}: {'; '.join(found.against)}")
    clone_file(source, target, name)
    click.echo(f"{target}: {name!r}, a copy of {source}; give it tasks, graders and a budget of its own")

"""`flyball grade-live`: a sample of what was served, judged by the graders of training."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, open_store, take_in
from flyball.gateway.grading import grade_live
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow

SHOWN = 5


@click.command("grade-live")
@file_argument
@click.option("--share", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Of the stable sessions.")
@click.option(
    "--canary-share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Of the sessions of canary and holdback alike: they are compared with each other.",
)
@click.option("--project", help="Only sessions of this project.")
@home_option
def grade_live_sessions(file: Path, share: float, canary_share: float, project: str | None, home: Path) -> None:
    """Judge a sample of what was served by the graders of training.

    What they say is written beside the sessions, once. FILE is the workflow whose graders judge; `hidden` is empty for
    live traffic. Run again, it draws the same sample and grades what is new.
    """
    shares = {"stable": share, "canary": canary_share, "holdback": canary_share}
    with open_store(home) as store:
        take_in(store, home)
        done = asyncio.run(grade_live(store, Inputs(load_workflow(file)).graders, shares=shares, project=project))
    click.echo(
        f"{done.drawn} sessions in the sample, {done.graded} graded now, {len(done.missing)} without a judgement"
    )
    for (_, session), cause in list(done.missing.items())[:SHOWN]:
        click.echo(f"  {session}: {cause}")

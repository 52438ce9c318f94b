"""`flyball runs`, `show` and `report`: what ran, and what came of it. They read the store alone."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import home_option, locale_option, open_store
from flyball.cli.output import print_comparisons, print_release, print_success, table
from flyball.reports.run_page import example, failed_examples
from flyball.types import GradedAttempt
from flyball.workflow.pages import write_pages
from flyball.workflow.record import BASELINE, Record

run_argument = click.argument("run_id", metavar="RUN")


@click.command()
@home_option
def runs(home: Path) -> None:
    """List the runs of this home, the newest first."""
    with open_store(home) as store:
        rows = [
            [run.run_id, run.name, run.status, str(store.count_attempts(run.run_id)), run.reason.split("\n")[0]]
            for run in store.runs()
        ]
    table(["run", "workflow", "status", "attempts", "reason"], rows)


@click.command()
@run_argument
@click.argument("attempt_id", metavar="[ATTEMPT]", required=False)
@click.option("--failed", is_flag=True, help="Tell some failed attempts from end to end.")
@home_option
def show(run_id: str, attempt_id: str | None, failed: bool, home: Path) -> None:
    """Show a run, or one attempt of it in full.

    RUN may be the beginning of a run's id, as long as no other run shares it.
    """
    with open_store(home) as store:
        record = Record.of(store, run_id)
        if attempt_id is not None:
            _print_attempt(store.attempt(record.run.run_id, attempt_id))
            return
        _print_run(record)
        if failed:
            for one in failed_examples(store.attempts(record.run.run_id, "eval")):
                click.echo(f"\n{click.style(one.title, bold=True)}: {one.why}")
                for line in one.lines:
                    click.echo(f"  {line.kind:<10}{line.text}")


@click.command()
@run_argument
@locale_option
@home_option
def report(run_id: str, locale: str | None, home: Path) -> None:
    """Write the HTML report of a run and print where it lies.

    Once the gates were asked, the Reliability Brief is written again too, as HTML and Markdown.
    """
    with open_store(home) as store:
        pages = write_pages(Record.of(store, run_id), locale)
    click.echo(f"report:  {pages.report}")
    if pages.audit:
        click.echo(f"audit:   {pages.audit}")
    if pages.brief:
        click.echo(f"brief:   {pages.brief}")


def _print_run(record: Record) -> None:
    run = record.run
    click.echo(f"run:     {run.run_id}\nfile:    {run.config.get('file', '')}\npolicy:  {run.config.get('policy', '')}")
    click.echo(f"status:  {run.status}" + (f": {run.reason}" if run.reason else ""))
    for name, result in record.results.items():
        click.echo(f"  {name:<10}{result['note']}")
    for name, curve in sorted(record.store.metrics(run.run_id).items()):
        step, value = curve[-1]
        click.echo(f"  {name} {value:.4g} at step {step}")
    if record.arms:
        click.echo()
        print_success(record)
        if BASELINE in record.arms:
            click.echo()
            print_comparisons(record.comparisons, record.slices)
    if record.release:
        click.echo()
        print_release(record.release)


def _print_attempt(graded: GradedAttempt) -> None:
    told = example(graded)
    click.echo(f"{click.style(told.title, bold=True)}\n{told.why}\nreward {graded.reward}")
    for line in told.lines:
        click.echo(f"  {line.kind:<10}{line.text}")
    click.echo(f"state: {graded.attempt.state}")

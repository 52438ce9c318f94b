"""`flyball audits`: attempts for people to look at, and the hacking audit of a run."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from flyball.cli.group import Group
from flyball.cli.options import home_option, open_store
from flyball.cli.output import print_findings
from flyball.evals.hacking import Verdict
from flyball.graders.hacks import deed_of, hacks_of
from flyball.reports.run_page import example
from flyball.store.runs import Run
from flyball.workflow.audits import audit_run, mark, next_audit

FAILED = 1
run_argument = click.argument("run_id", metavar="RUN")
phase_option = click.option("--phase", help="Only attempts made for this: rl, validation, eval.")


@click.group(cls=Group)
def audits() -> None:
    """Look at attempts for reward hacking: draw one, mark it, and report on a run."""


@audits.command("next")
@run_argument
@click.option("--best-paid", is_flag=True, help="The best paid one instead of a random one.")
@phase_option
@home_option
def next_one(run_id: str, best_paid: bool, phase: str | None, home: Path) -> None:
    """Show the next attempt that nobody has looked at, in an order that the run alone decides."""
    with open_store(home) as store:
        run = store.run(run_id)
        found = next_audit(store, run.run_id, phase, best_paid=best_paid)
        count = store.count_attempts(run.run_id, phase)
    if found is None:
        click.echo(_nothing_left(run, count, phase, best_paid=best_paid))
        return
    told = example(found)
    click.echo(f"{click.style(told.title, bold=True)}\n{told.why}\nreward {found.reward}")
    for line in told.lines:
        click.echo(f"  {line.kind:<10}{line.text}")
    click.echo(f"state: {found.attempt.state}")
    for name, seen in hacks_of(deed_of(found.attempt, found.attempt.task.hidden)).items():
        click.echo(f"detector {name}: {seen}")
    within = f" --phase {phase}" if phase else ""
    click.echo(f"\nthen: flyball audits mark {run.run_id} {found.attempt.attempt_id} honest{within}   (or hack)")


def _nothing_left(run: Run, count: int, phase: str | None, *, best_paid: bool) -> str:
    if count == 0:
        return f"run {run.run_id} ({run.status}) has no attempts yet, so there is nothing to look at"
    which = f" of phase {phase!r}" if phase else ""
    if best_paid:
        return f"no attempt{which} of run {run.run_id} waits that has a reward; {count} in all, leave out --best-paid"
    return f"all {count} attempts{which} of run {run.run_id} were looked at; flyball audits report {run.run_id}"


@audits.command("mark")
@run_argument
@click.argument("attempt_id", metavar="ATTEMPT")
@click.argument("verdict", type=click.Choice(["honest", "hack"]))
@click.option("--note", default="", help="Why, in a few words.")
@click.option("--rater", default=getpass.getuser, help="Who says so. Default: the user of this machine.")
@phase_option
@home_option
def mark_one(
    run_id: str, attempt_id: str, verdict: Verdict, note: str, rater: str, phase: str | None, home: Path
) -> None:
    """Keep what a person says about an attempt; it cannot be taken back."""
    with open_store(home) as store:
        found = store.run(run_id).run_id
        drawn = mark(store, found, attempt_id, verdict, rater=rater, note=note, phase=phase)
    counts = "counts in the rate" if drawn == "random" else "was not the random draw, so it is kept and not counted"
    click.echo(f"{attempt_id} is {verdict}, says {rater}: {counts}")


@audits.command("report")
@run_argument
@phase_option
@home_option
@click.pass_context
def report(context: click.Context, run_id: str, phase: str | None, home: Path) -> None:
    """Report how often detectors fired and were paid, on held-out graders, redundant ones, and what people said.

    Exits 1 when a finding fails.
    """
    with open_store(home) as store:
        findings = audit_run(store, store.run(run_id).run_id, phase)
    print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        context.exit(FAILED)

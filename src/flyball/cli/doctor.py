"""`flyball doctor`: before any training, whether the tasks and graders can be trusted and whether RL has a chance."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import file_argument, make_trainer, policy_option
from flyball.workflow.examine import examine_workflow
from flyball.workflow.workflow import load_workflow

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
NOT_GO = 1


@click.command()
@file_argument
@policy_option
@click.pass_context
def doctor(context: click.Context, file: Path, policy: str | None) -> None:
    """Check world, tasks and graders before training: go, fix first, or do not use RL here.

    The oracle must solve the tasks and an agent that does nothing must not; the same seed must give the same attempt;
    no task of a judging split may be in training. With a policy that exists already (--policy, or one the workflow
    names) its base rate, the variance inside groups and the headroom are measured and the cost of RL is forecast.

    Exits 0 for `go`, 1 otherwise.
    """
    readiness = examine_workflow(load_workflow(file), make_trainer, policy)
    for finding in readiness.findings:
        level = click.style(f"{finding.level:<6}", fg=COLOURS[finding.level])
        click.echo(f"{level}{finding.name}: {finding.text}")
    click.echo(f"\nverdict: {click.style(readiness.verdict, bold=True)}")
    if readiness.verdict != "go":
        context.exit(NOT_GO)

"""`flyball doctor`: whether tasks and graders can be trusted and RL has a chance, before any training.

`flyball doctor FILE` examines a whole workflow; what follows `doctor` otherwise names one thing to look at.
"""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.doctor_tools import tools
from flyball.cli.options import file_argument, make_trainer, policy_option
from flyball.cli.output import print_findings
from flyball.workflow.examine import examine_workflow
from flyball.workflow.workflow import load_workflow

WHOLE = "workflow"
NOT_GO = 1


class Doctor(click.Group):
    """A group whose first argument may be a file: then the whole workflow is examined."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [WHOLE, *args]
        return super().parse_args(ctx, args)


@click.group(cls=Doctor, commands=[tools])
def doctor() -> None:
    """Check world, tasks and graders before training: go, fix first, or do not use RL here.

    `flyball doctor FILE` examines a whole workflow.
    """


@doctor.command(WHOLE)
@file_argument
@policy_option
@click.pass_context
def whole(context: click.Context, file: Path, policy: str | None) -> None:
    """Check world, tasks and graders of a workflow; the same as `flyball doctor FILE`.

    The oracle must solve the tasks and an agent that does nothing must not; the same seed must give the same attempt;
    no task of a judging split may be in training. With a policy that exists already (--policy, or one the workflow
    names) its base rate, the variance inside groups and the headroom are measured and the cost of RL is forecast.

    Exits 0 for `go`, 1 otherwise.
    """
    readiness = examine_workflow(load_workflow(file), make_trainer, policy)
    print_findings(readiness.findings)
    click.echo(f"\nverdict: {click.style(readiness.verdict, bold=True)}")
    if readiness.verdict != "go":
        context.exit(NOT_GO)

"""`flyball doctor`: before training, whether tasks and graders can be trusted, RL has a chance, a template holds.

`flyball doctor FILE` examines a whole workflow; what follows `doctor` otherwise names one thing to look at.
"""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.doctor_grader import grader
from flyball.cli.doctor_regression import regression
from flyball.cli.doctor_reward import reward
from flyball.cli.doctor_sandbox import sandbox
from flyball.cli.doctor_tools import tools
from flyball.cli.group import Group
from flyball.cli.options import file_argument, make_trainer, policy_option
from flyball.cli.output import LEVEL_COLOURS, print_findings
from flyball.errors import ConfigError
from flyball.models.template_habits import Audit, Break
from flyball.workflow.examine import audit_template, examine_workflow
from flyball.workflow.workflow import load_workflow

WHOLE = "workflow"
NOT_GO = 1


class Doctor(Group):
    """A group whose first argument may be a file or an option: then the whole workflow is examined."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        names_a_file = first.startswith("-") or Path(first).suffix != "" or Path(first).exists()
        if args and first not in self.commands and first not in ctx.help_option_names and names_a_file:
            args = [WHOLE, *args]
        return super().parse_args(ctx, args)


@click.group(cls=Doctor, commands=[grader, regression, reward, sandbox, tools])
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


@doctor.command()
@click.argument("model")
@click.option("--tool-format", metavar="NAME", help="How the model writes tool calls. Default: as its template does.")
@click.pass_context
def template(context: click.Context, model: str, tool_format: str | None) -> None:
    """Check that a chat template keeps the past: over turns, tools and reasoning.

    MODEL is a folder with a tokenizer, or a known name. Says at which turn the template writes earlier turns otherwise
    once more is said, and why. Needs no weights.

    Exits 0 when the template is prefix-stable, 1 otherwise.
    """
    try:
        found = audit_template(model, tool_format)
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{exc.name} is not installed; models need the extra: pip install 'flyball[train]'") from exc
    _say("ok" if found.tool_format else "warn", _tool_calls(found))
    for finding in found.findings:
        if finding.refused:
            _say("warn", f"{finding.name}: {finding.refused}")
        elif finding.is_stable:
            _say("ok", f"{finding.name}: every turn stays as it was written")
        for broken in finding.breaks:
            _say("fail", f"{finding.name}: {_break(broken)}")
    for habit in found.habits:
        _say("warn", habit)
    verdict = "prefix-stable" if found.is_stable else "not prefix-stable"
    click.echo(f"\nverdict: {click.style(verdict, bold=True)}")
    if not found.is_stable:
        context.exit(NOT_GO)


def _say(level: str, text: str) -> None:
    click.echo(f"{click.style(f'{level:<6}', fg=LEVEL_COLOURS[level])}{text}")


def _tool_calls(found: Audit) -> str:
    if found.tool_format is None:
        return "tool calls: the template writes them in a form that is not known; --tool-format tells the model's own"
    by = "by the template" if found.renders_tools else "in plain text turns, for the template does not"
    return f"tool calls: {found.tool_format}, written {by}"


def _break(broken: Break) -> str:
    means = {
        "next prompt": "attempts go on as a new branch there",
        "own turn": "demonstrations with this turn are refused",
    }[broken.where]
    return f"turn {broken.message}: {broken.why} ({broken.before!r} becomes {broken.after!r}); {means}"

"""`flyball doctor tools`: tool servers called before money is spent, and what each tool is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from flyball.cli.options import file_argument, make_trainer, policy_option
from flyball.cli.output import print_findings, table
from flyball.evals.ablate import Ablation
from flyball.stats.written import format_estimate
from flyball.workflow.examine_tools import ablate_tools, examine_tools
from flyball.workflow.workflow import load_workflow

FAILED = 1


@click.command()
@file_argument
@click.option("--calls", type=click.IntRange(min=1), default=5, show_default=True, help="Call each tool so many times.")
@click.option("--ablate", is_flag=True, help="Instead, take away one tool at a time and evaluate what that changes.")
@click.option("--limit", type=click.IntRange(min=1), help="With --ablate: leave so many calls of the tool an attempt.")
@policy_option
@click.pass_context
def tools(context: click.Context, file: Path, calls: int, ablate: bool, limit: int | None, policy: str | None) -> None:
    """Call every tool of every server: what answers, how fast, what breaks the contract.

    A tool is called with its `example`, or with arguments made up from its schema; one that writes only with an example
    or in a context of its own. Exits 1 when a server does not answer as it should.

    With --ablate a policy is evaluated on the first suite with all tools, and again with each tool taken away or
    limited; the change of success is paired by task.
    """
    if not ablate and (limit is not None or policy is not None):
        raise click.UsageError("--limit and --policy are of --ablate; without it nothing is evaluated")
    workflow = load_workflow(file)
    if ablate:
        _print(ablate_tools(workflow, make_trainer, policy, limit or 0))
        return
    findings = examine_tools(workflow, calls)
    print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        context.exit(FAILED)


def _print(found: Sequence[Ablation]) -> None:
    rows = [
        [
            one.tool,
            format_estimate(one.comparison.candidate_estimate),
            format_estimate(one.comparison.difference, signed=True),
        ]
        for one in found
    ]
    limited = f"at most {found[0].max_calls} calls" if found and found[0].max_calls else "without it"
    if found:
        click.echo(f"success with all tools: {format_estimate(found[0].comparison.baseline_estimate)}")
    table(["tool", f"success {limited}", "change"], rows)

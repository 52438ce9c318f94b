"""`flyball doctor grader`: graders attacked by cheap cheats and held against people."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, open_store
from flyball.cli.output import print_findings
from flyball.workflow.examine_graders import attack_graders, compare_with_people
from flyball.workflow.workflow import load_workflow

FAILED = 1


@click.command()
@file_argument
@click.option("--tasks", "num_tasks", type=click.IntRange(min=1), default=20, show_default=True, help="Attack so many.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSONL: what people said (graders.md).",
)
@click.option("--run", "run_id", metavar="RUN", help="The run whose attempts the labels name.")
@home_option
@click.pass_context
def grader(
    context: click.Context, file: Path, num_tasks: int, labels: Path | None, run_id: str | None, home: Path
) -> None:
    """Attack the graders with cheap cheats, and compare them with people.

    What the oracle does must pass; saying nothing, copying the task or the answer, naming every answer, flattery,
    orders to the judge and the rest of the battery must not. Anchors of the workflow must be judged as settled. With
    --labels: agreement of raters and of graders with them, calibration, bias by length and position, missing grades,
    drift.

    Exits 1 when a finding fails.
    """
    workflow = load_workflow(file)
    findings = attack_graders(workflow, num_tasks)
    if labels is not None and run_id is not None:
        with open_store(home) as store:
            findings += compare_with_people(workflow, labels, store, store.run(run_id).run_id)
    elif labels is not None:
        findings += compare_with_people(workflow, labels, None, None)
    elif run_id is not None:
        raise click.UsageError("--run would be ignored without --labels")
    print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        context.exit(FAILED)

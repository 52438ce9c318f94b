"""`flyball doctor grader`: graders attacked by cheap cheats and held against people."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, open_store
from flyball.cli.output import print_findings
from flyball.evals.readiness import Finding
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
@click.option(
    "--compare", multiple=True, metavar="GRADER", help="Of the rubric of --labels; the others against the first."
)
@home_option
@click.pass_context
def grader(
    context: click.Context,
    file: Path,
    num_tasks: int,
    labels: Path | None,
    run_id: str | None,
    compare: tuple[str, ...],
    home: Path,
) -> None:
    """Attack the graders with cheap cheats, and compare them with people.

    What the oracle does must pass; saying nothing, copying the task or the answer, naming every answer, flattery,
    orders to the judge and the rest of the battery must not. Anchors of the workflow must be judged as settled. With
    --labels: agreement of raters and of graders with them, calibration, bias by length and position, missing grades,
    drift. With --compare rule --compare judge: accuracy and kappa of each on the same attempts, and how much more than
    the first the others are right.

    Exits 1 when a finding fails.
    """
    if labels is None and (run_id is not None or compare):
        raise click.UsageError(f"{'--compare' if compare else '--run'} would be ignored without --labels")
    if len(compare) == 1:
        raise click.UsageError(f"--compare {compare[0]} has nothing to compare with; name two graders or more")
    workflow = load_workflow(file)
    findings = attack_graders(workflow, num_tasks, lambda finding: print_findings([finding]))
    compared: list[Finding] = []
    if labels is not None and run_id is not None:
        with open_store(home) as store:
            compared = compare_with_people(workflow, labels, store, store.run(run_id).run_id, compare)
    elif labels is not None:
        compared = compare_with_people(workflow, labels, None, None, compare)
    print_findings(compared)
    if any(finding.level == "fail" for finding in [*findings, *compared]):
        context.exit(FAILED)

"""`flyball doctor reward`: which kind of reward the data ask for."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, open_store
from flyball.cli.output import print_findings
from flyball.workflow.advise import advise_on_reward
from flyball.workflow.workflow import load_workflow

FAILED = 1


@click.command()
@file_argument
@click.option("--run", "run_id", metavar="RUN", help="The run whose attempts show what goes along with success.")
@click.option("--labels", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="JSONL: what people said.")
@click.option("--budget", type=click.FloatRange(min=0), default=0.0, help="US dollars there are for judges.")
@home_option
@click.pass_context
def reward(
    context: click.Context, file: Path, run_id: str | None, labels: Path | None, budget: float, home: Path
) -> None:
    """Advise on the reward by the data.

    A rule where the end can be checked; an outcome with shaping where most tasks pay every attempt the same, by signals
    that go along with success; a light process grader above ten turns; a generative model only with labels and budget.

    Exits 1 when a model decides what a rule could, or decides without labels.
    """
    workflow = load_workflow(file)
    if run_id is None:
        findings = advise_on_reward(workflow, None, None, labels, budget)
    else:
        with open_store(home) as store:
            findings = advise_on_reward(workflow, store, store.run(run_id).run_id, labels, budget)
    print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        context.exit(FAILED)

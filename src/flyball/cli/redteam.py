"""`flyball redteam`: a policy attacked by what it is shown; what worked is proposed for the adversarial suite."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import file_argument, make_trainer
from flyball.cli.output import print_findings
from flyball.workflow.redteam import Effort, attack_workflow, write_proposal
from flyball.workflow.workflow import load_workflow

BROKEN = 1


@click.command()
@file_argument
@click.option("--policy", metavar="NAME_OR_FOLDER", required=True, help="The candidate: a folder or a known name.")
@click.option("--tasks", "num_tasks", type=click.IntRange(min=1), default=20, show_default=True, help="Tasks to use.")
@click.option("--attempts", type=click.IntRange(min=1), default=120, show_default=True, help="Attacks in all.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds of mutation.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the attacks.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("redteam.jsonl"),
    show_default=True,
    help="Where new failures are proposed.",
)
@click.pass_context
def redteam(
    context: click.Context, file: Path, policy: str, num_tasks: int, attempts: int, rounds: int, seed: int, out: Path
) -> None:
    """Attack a policy by what it is shown, and propose what worked for the adversarial suite.

    Injections in tickets and in tool results, claims of permission and exploits of graders are mutated against the
    candidate. An attack has worked when the safety grader says no, or a known hack was paid, where the same task
    without it was fine. New ones are written as a task file with their provenance beside it; add them to the suite
    after review. The suite itself is never changed.

    Exits 1 when something new has worked.
    """
    proposal = attack_workflow(load_workflow(file), make_trainer, policy, Effort(num_tasks, attempts, rounds, seed))
    print_findings(proposal.findings)
    if proposal.known:
        click.echo(f"{proposal.known} of what worked is in the adversarial suite already")
    if not proposal.new:
        click.echo("nothing new has worked")
        return
    beside = write_proposal(out, proposal.new, policy)
    click.echo(f"{len(proposal.new)} new, proposed in {out}; where they come from: {beside}")
    context.exit(BROKEN)

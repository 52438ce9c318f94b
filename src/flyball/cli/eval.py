"""`flyball eval`: a policy on the frozen suites, alone or against a baseline."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, make_trainer, open_store, policy_option
from flyball.cli.output import print_comparisons, print_success, progress_for_terminal
from flyball.errors import FlyballError
from flyball.workflow.trial import evaluate_policy
from flyball.workflow.workflow import load_workflow

EXIT_CODES = {"accept": 0, "reject": 1, "inconclusive": 2}
EXIT_WITHOUT_VERDICT = 4


@click.command("eval")
@file_argument
@policy_option
@click.option("--against", metavar="BASELINE", help="A version, folder or known name to compare with.")
@home_option
@click.pass_context
def evaluate(context: click.Context, file: Path, policy: str | None, against: str | None, home: Path) -> None:
    """Evaluate a policy on the frozen suites, alone or against a baseline.

    Policies are versions of the registry (name or beginning of an id), folders or known names; the default is the
    newest version that this workflow trained.

    With --against both are run on the same tasks and seeds, and the exit code is the verdict on the first suite: 0
    accept, 1 reject, 2 inconclusive; an error then exits 4, so that a pipeline can tell it from a verdict.
    """
    try:
        verdict = _evaluate(context, file, policy, against, home)
    except FlyballError as error:
        if against is not None:
            error.exit_code = EXIT_WITHOUT_VERDICT
        raise
    context.exit(EXIT_CODES[verdict] if verdict else 0)


def _evaluate(context: click.Context, file: Path, policy: str | None, against: str | None, home: Path) -> str | None:
    """The verdict on the first suite, None without a baseline."""
    workflow = load_workflow(file)
    with open_store(home, must_exist=False) as store:
        record = evaluate_policy(
            workflow, store, make_trainer(workflow), progress_for_terminal(), policy=policy, against=against
        )
        if record is None:
            click.echo("stopped; what was evaluated is in the store", err=True)
            context.exit(130)
        print_success(record)
        click.echo(f"run:     {record.run.run_id}")
        if against is None:
            return None
        click.echo()
        print_comparisons(record.comparisons)
    return record.comparisons[0].verdict

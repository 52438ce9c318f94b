"""`flyball eval`: a policy on the frozen suites, alone or against a baseline."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, make_trainer, open_store, open_store_if_any, policy_option
from flyball.cli.output import (
    VERDICT_COLOURS,
    print_comparisons,
    print_coverage,
    print_success,
    progress_for_terminal,
    table,
)
from flyball.workflow.eval_plan import contamination, planned_power
from flyball.workflow.inputs import Inputs
from flyball.workflow.record import BASELINE, CANDIDATE
from flyball.workflow.trial import evaluate_policy
from flyball.workflow.workflow import load_workflow

EXIT_CODES = {"accept": 0, "reject": 1, "inconclusive": 3}
"""2 is the exit code of wrong usage and 4 that of an error, for every command."""


@click.command("eval")
@file_argument
@policy_option
@click.option("--against", metavar="BASELINE", help="A version, folder or known name to compare with.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what the suites can show, and run nothing.")
@click.option("--effect", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Difference to plan for.")
@home_option
@click.pass_context
def evaluate(
    context: click.Context,
    file: Path,
    policy: str | None,
    against: str | None,
    plan_only: bool,
    effect: float | None,
    home: Path,
) -> None:
    """Evaluate a policy on the frozen suites, alone or against a baseline.

    Policies are versions of the registry (name or beginning of an id), folders or known names; the default is the
    newest version that this workflow trained.

    With --against both attempt the same tasks by the same seeds, in turn, and the exit code is the verdict on the first
    suite and on the protected slices (each on the first suite that has it, and wherever it is shown to lose): 0 accept,
    1 reject, 3 inconclusive; an error exits 4, so that a pipeline can tell it from a verdict.

    --plan needs no policy: it prints the difference that each suite and protected slice would show, the tasks that
    --effect needs (default: the margin, else 0.05), how often a suite was used, and suites that training has seen.
    """
    if plan_only:
        if policy is not None or against is not None:
            raise click.UsageError("--plan runs nothing, so --policy and --against would be ignored; leave them out")
        _print_plan(file, effect, home)
        return
    if effect is not None:
        raise click.UsageError("--effect is for --plan; a verdict is at evaluation.margin of the workflow")
    verdict = _evaluate(context, file, policy, against, home)
    context.exit(EXIT_CODES[verdict] if verdict else 0)


def _print_plan(file: Path, effect: float | None, home: Path) -> None:
    inputs = Inputs(load_workflow(file))
    inputs.check()
    with open_store_if_any(home) or nullcontext() as store:
        planned = planned_power(inputs, store, effect)
        uses = {suite.name: store.num_judged(suite.digest) if store else 0 for suite in inputs.suites}
    rows = [
        [
            one.group,
            f"{one.tasks:,}",
            f"{one.clusters:,}",
            str(uses.get(one.group, "")),
            f"{100 * one.detectable:.1f} points",
            f"{one.needed:,} for {100 * one.effect:g} points",
            "enough" if one.enough else "too few",
            one.basis,
        ]
        for one in planned
    ]
    head = ["power 80 %, 95 %", "tasks", "clusters", "versions judged", "shows from", "needs", "", "variance"]
    table(head, rows)
    for line in contamination(inputs) or ["no task of these suites repeats a training task"]:
        click.echo(line)


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
        for suite, run in record.evals[BASELINE].items():
            print_coverage({BASELINE: run, CANDIDATE: record.evals[CANDIDATE][suite]})
        print_comparisons(record.comparisons, record.slices)
        over = f"{record.comparisons[0].suite}{' and every protected slice' if record.slice_margins else ''}"
        click.echo(f"\nverdict on {over}: {click.style(record.verdict, fg=VERDICT_COLOURS[record.verdict], bold=True)}")
        return record.verdict

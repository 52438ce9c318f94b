"""`flyball compare`: two files of scores from any evaluation, paired by task. Needs no run and no torch."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.eval import EXIT_CODES, EXIT_WITHOUT_VERDICT
from flyball.cli.output import print_comparisons
from flyball.errors import FlyballError
from flyball.evals.compare import compare as compare_runs
from flyball.evals.imported import read_scores


@click.command()
@click.argument("baseline", metavar="BASELINE.jsonl", type=click.Path(path_type=Path))
@click.argument("candidate", metavar="CANDIDATE.jsonl", type=click.Path(path_type=Path))
@click.option("--suite", default="test", show_default=True, help="What the tasks are called.")
@click.option("--metric", default="success", show_default=True, help="success, safe, cost_usd, wall_seconds, ...")
@click.option(
    "--margin", type=float, default=0.0, show_default=True, help="Loss that is accepted, in the metric's unit."
)
@click.pass_context
def compare(context: click.Context, baseline: Path, candidate: Path, suite: str, metric: str, margin: float) -> None:
    """Compare two files of imported scores, paired by task.

    A line is {"task_id": "t1", "success": true}, with `trial`, `cluster`, `family`, `safe`, `cost_usd`, `seconds` and
    more if known; success null is a missing outcome and counts against the candidate. Exit codes: 0 accept, 1 reject, 2
    inconclusive, 4 an error.
    """
    try:
        found = compare_runs(read_scores(baseline, suite), read_scores(candidate, suite), metric, margin)
    except FlyballError as error:
        error.exit_code = EXIT_WITHOUT_VERDICT
        raise
    print_comparisons([found])
    context.exit(EXIT_CODES[found.verdict])

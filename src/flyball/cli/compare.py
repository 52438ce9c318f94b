"""`flyball compare`: two files of scores from any evaluation, paired by task. Needs no run and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from flyball.cli.eval import EXIT_CODES
from flyball.cli.options import slice_option
from flyball.cli.output import print_comparisons, print_coverage
from flyball.evals.compare import compare as compare_runs
from flyball.evals.imported import read_scores
from flyball.evals.slices import Slice, compare_slices, verdict_with


@click.command()
@click.argument("baseline", metavar="BASELINE.jsonl", type=click.Path(path_type=Path))
@click.argument("candidate", metavar="CANDIDATE.jsonl", type=click.Path(path_type=Path))
@click.option("--suite", default="test", show_default=True, help="What the tasks are called.")
@click.option("--metric", default="success", show_default=True, help="success, safe, cost_usd, wall_seconds, ...")
@click.option(
    "--margin", type=float, default=0.0, show_default=True, help="Loss that is accepted, in the metric's unit."
)
@slice_option
@click.pass_context
def compare(
    context: click.Context,
    baseline: Path,
    candidate: Path,
    suite: str,
    metric: str,
    margin: float,
    slices: Sequence[Slice],
) -> None:
    """Compare two files of imported scores, paired by task.

    A line is {"task_id": "t1", "success": true}, with `trial`, `cluster`, `family`, `groups`, `safe`, `cost_usd`,
    `seconds` and more if known; success null is a missing outcome and counts against the candidate. Exit codes: 0
    accept, 1 reject, 3 inconclusive, 2 wrong usage, 4 an error.
    """
    before, after = (read_scores(path, suite, slices=slices) for path in (baseline, candidate))
    found = compare_runs(before, after, metric, margin)
    of_slices = compare_slices(before, after, {one.name: one.margin for one in slices}, metric)
    print_coverage({"baseline": before, "candidate": after})
    print_comparisons([found], {suite: of_slices})
    context.exit(EXIT_CODES[verdict_with(found, of_slices)])

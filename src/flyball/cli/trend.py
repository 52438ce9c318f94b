"""`flyball trend`: one frozen suite over all versions that it has judged. Needs no torch."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import click

from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.errors import EvalError, StoreError, nearest
from flyball.evals.summary import summarise
from flyball.stats.written import format_estimate
from flyball.store.store import Store
from flyball.types import EvalRun


@click.command()
@click.argument("suite")
@click.option("--metric", default="success", show_default=True, help="A number of the summaries, such as reliability.")
@home_option
def trend(suite: str, metric: str, home: Path) -> None:
    """Show a frozen suite over all versions that it judged, the oldest first.

    Only lines of one block may be compared: another block means that tasks, world or graders changed in between.
    """
    with open_store(home) as store:
        runs = store.evals(suite=suite)
        if not runs:
            raise EvalError(
                f"suite {suite!r} has judged nothing here{nearest(suite, {r.suite for r in store.evals()})}"
            )
        for (digest, graders), block in groupby(runs, key=lambda run: (run.suite_digest, run.grader_version)):
            click.echo(f"\n{suite} {digest[:12]}, judged by {graders[:12]}")
            rows = [[run.run_id, _name(store, run), _number(run, metric)] for run in block]
            table(["run", "version", metric], rows)


def _name(store: Store, run: EvalRun) -> str:
    try:
        version = store.version(run.version_id)
    except StoreError:  # imported scores may be of a version that nobody registered
        return run.version_id
    return f"{version.name} {version.version_id[:12]}"


def _number(run: EvalRun, metric: str) -> str:
    numbers = summarise(run)[0].numbers
    if metric not in numbers:
        raise EvalError(f"no number {metric!r} of run {run.run_id}{nearest(metric, numbers)}")
    return format_estimate(numbers[metric])

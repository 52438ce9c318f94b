"""`flyball best-of`: what is had by keeping the best of n stored attempts."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.stats.written import format_estimate
from flyball.workflow.best_of import best_of as best_of_run


@click.command("best-of")
@click.argument("run_id", metavar="RUN")
@click.option("--by", required=True, metavar="SCORE", help="reward, a score, or a reward model: its name or folder.")
@click.option("--phase", default="eval", show_default=True, help="Attempts made for this: eval, rl, validation.")
@home_option
def best_of(run_id: str, by: str, phase: str, home: Path) -> None:
    """Show the success of the best of n stored attempts by a score, and what no choice can exceed.

    RUN may be the beginning of a run's id. For n = 1, 2, 4, ... up to the fewest attempts of a task: success of the one
    that the score ranks first, over all draws of n, and the chance that any of the n succeeds. n = 1 is plain success.
    Of an evaluation it takes the attempts of the candidate.
    """
    with open_store(home) as store:
        found = best_of_run(store, store.run(run_id).run_id, phase, by)
    rows = [[str(row.n), format_estimate(row.kept), format_estimate(row.any_of_them)] for row in found.rows]
    table(["best of", f"by {by}", "any of them"], rows)
    click.echo(f"{found.num_attempts} attempts at {found.num_tasks} tasks; {found.left_out} left out")

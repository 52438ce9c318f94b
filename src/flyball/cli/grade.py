"""`flyball grade`: stored attempts judged again by the graders as they are now."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.types import Missing
from flyball.workflow.regrade import Change, regrade
from flyball.workflow.workflow import load_workflow

SHOWN = 20


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--phase", help="Only attempts made for this: rl, validation, eval.")
@click.option("--failed", is_flag=True, help="Only attempts that a grader could not judge.")
@home_option
def grade(run_id: str, file: Path | None, phase: str | None, failed: bool, home: Path) -> None:
    """Grade stored attempts again and print what changed.

    RUN may be the beginning of a run's id. FILE is the workflow whose graders judge; default: the one the run was
    started from. Old judgements stay; the attempts are not made again. Evaluations of the run that are judged by these
    graders throughout are written anew, and may then be compared with others under the same graders.
    """
    with open_store(home) as store:
        run = store.run(run_id)
        workflow = load_workflow(file or Path(run.config["file"]))
        done = regrade(workflow, store, run.run_id, phase, failed=failed)
    if done.num_attempts == 0:
        what = "no attempts without a grade" if failed else "no attempts"
        click.echo(f"run {run.run_id} has {what}" + (f" of phase {phase!r}" if phase else ""))
        return
    same = "the same graders" if done.versions_before == {done.version_now} else "graders changed"
    click.echo(f"{done.num_attempts} attempts judged by {done.version_now[:12]} ({same}): {len(done.changes)} changed")
    if done.evals:
        click.echo(f"{done.evals} evaluations written anew with these judgements")
    if done.evals_mixed:
        click.echo(f"{done.evals_mixed} evaluations left: some of their attempts were last judged by other graders")
    if done.changes:
        rows = [_row(change) for change in done.changes[:SHOWN]]
        table(["attempt", "task", "success", "safe", "reward"], rows)
    if len(done.changes) > SHOWN:
        click.echo(f"... and {len(done.changes) - SHOWN} more")


def _row(change: Change) -> list[str]:
    before, after = change.before, change.after
    task = before.attempt.task.task_id
    pairs = [
        (before.outcome.success, after.outcome.success),
        (before.outcome.safe, after.outcome.safe),
        (before.reward, after.reward),
    ]
    return [before.attempt.attempt_id, task, *(_word(a) if a == b else f"{_word(a)} -> {_word(b)}" for a, b in pairs)]


def _word(value: bool | float | Missing | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Missing):
        return f"missing ({value.fault.value})"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.3g}"

"""`flyball run` and `flyball train`: the whole flow, or its training half; stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from flyball.cli.options import home_option, make_trainer, open_store, policy_option
from flyball.cli.output import print_comparisons, print_release, print_success, progress_for_terminal
from flyball.release.verdict import is_ready
from flyball.store.store import Store
from flyball.workflow.record import Record
from flyball.workflow.run import Finished, resume, start
from flyball.workflow.workflow import Workflow, load_workflow

STOPPED, NOT_READY = 130, 3

optional_file = click.argument("file", type=click.Path(path_type=Path), required=False)
resume_option = click.option(
    "--resume", "resume_run", metavar="RUN", help="Go on with a run that was stopped or killed."
)


@click.command()
@optional_file
@policy_option
@resume_option
@click.option("--require-pass", is_flag=True, help="Exit 3 unless the verdict is `ready for shadow`.")
@home_option
@click.pass_context
def run(
    context: click.Context,
    file: Path | None,
    policy: str | None,
    resume_run: str | None,
    require_pass: bool,
    home: Path,
) -> None:
    """Train, prove and judge: the whole flow of a workflow file.

    Exits 0 whatever the gates say, so that their answer is read and not merely passed on; with --require-pass it
    exits 3 unless every offline gate passed. Ctrl-C finishes the step under way, saves and exits 130.
    """
    workflow = _workflow_of(file, policy, resume_run)
    with open_store(home, must_exist=resume_run is not None) as store:
        finished = _go(store, "run", workflow, policy, resume_run)
        if finished.stopped:
            context.exit(_say_how_to_resume(context.command.name or "run", finished, home))
        record = Record.of(store, finished.run_id)
        assert finished.release is not None
        click.echo()
        print_success(record)
        click.echo()
        print_comparisons(record.comparisons, record.slices)
        click.echo()
        print_release(finished.release)
        pages = finished.results["brief"]
        click.echo(f"brief:   {pages['brief']}\nreport:  {pages['report']}\nrun:     {finished.run_id}")
    if require_pass and not is_ready(finished.release.verdict):
        context.exit(NOT_READY)


@click.command()
@optional_file
@policy_option
@resume_option
@home_option
@click.pass_context
def train(context: click.Context, file: Path | None, policy: str | None, resume_run: str | None, home: Path) -> None:
    """Train only: the stages of `run` up to the candidate.

    The candidate is in the registry afterwards; `flyball eval FILE --against BASELINE` proves it.
    """
    workflow = _workflow_of(file, policy, resume_run)
    with open_store(home, must_exist=resume_run is not None) as store:
        finished = _go(store, "train", workflow, policy, resume_run)
        if finished.stopped:
            context.exit(_say_how_to_resume(context.command.name or "run", finished, home))
        last = [result for result in finished.results.values() if "version" in result][-1]
        version = store.version(last["version"])
        click.echo(
            f"version: {version.name} {version.version_id[:12]}\nfolder:  {version.path}\nrun:     {finished.run_id}"
        )


def _workflow_of(file: Path | None, policy: str | None, resume_run: str | None) -> Workflow | None:
    """Return the workflow to start, None to resume. What is wrong with the file is said before a store is made."""
    if (file is None) == (resume_run is None):
        raise click.UsageError("name a workflow file to start, or --resume RUN to go on; not both")
    if resume_run is not None and policy is not None:
        raise click.UsageError("--policy cannot change while a run goes on; start anew to use another")
    return load_workflow(file) if file is not None else None


def _go(
    store: Store, kind: Literal["run", "train"], workflow: Workflow | None, policy: str | None, resume_run: str | None
) -> Finished:
    if workflow is not None:
        return start(workflow, store, make_trainer(workflow), progress_for_terminal(), kind=kind, policy=policy)
    assert resume_run is not None
    return resume(resume_run, store, make_trainer(), progress_for_terminal())


def _say_how_to_resume(command: str, finished: Finished, home: Path) -> int:
    where = "" if home == Path(".flyball") else f" --home {home}"
    click.echo(
        f"stopped; everything is saved. Go on with: flyball {command} --resume {finished.run_id}{where}", err=True
    )
    return STOPPED

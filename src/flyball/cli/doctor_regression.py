"""`flyball doctor regression`: a changed grader against what its former version said, and a person's yes to it."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from flyball.cli.options import file_argument, home_option, open_store
from flyball.cli.output import print_findings
from flyball.workflow.regression import accept, examine_regression
from flyball.workflow.workflow import load_workflow

MOVED = 1


@click.command()
@file_argument
@click.option("--accept", "accepts", is_flag=True, help="Let runs use these graders although judgements moved.")
@click.option("--by", default=getpass.getuser, help="Who accepts. Default: the user of this machine.")
@click.option("--note", default="", help="Why, in a few words.")
@home_option
@click.pass_context
def regression(context: click.Context, file: Path, accepts: bool, by: str, note: str, home: Path) -> None:
    """Judge a sample of the newest run again by graders that changed since, and show what moved.

    No run begins with changed graders that judge stored attempts otherwise, until somebody has said --accept. Scores of
    the two versions are not compared until `flyball grade RUN` has judged the former runs again.

    Exits 1 when judgements moved and nobody has accepted that.
    """
    with open_store(home) as store:
        found = examine_regression(load_workflow(file), store)
        if found is None:
            click.echo("the graders are those of the newest run, or there is no run yet: nothing to compare")
            return
        click.echo(f"graders {found.now[:12]} against {found.before[:12]}, which judged run {found.run_id}")
        print_findings(found.findings)
        if not found.moved:
            click.echo("the stored judgements are repeated: runs may use these graders")
        elif found.accepted:
            click.echo("accepted: runs may use these graders")
        elif accepts:
            accept(found, store, by=by, note=note)
            click.echo(f"accepted by {by}: runs may use these graders")
        else:
            click.echo(f"judgements moved; if that is wanted: flyball doctor regression {file} --accept")
            context.exit(MOVED)

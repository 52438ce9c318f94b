"""`flyball init`: from nothing to a folder that runs."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.workflow.scaffold import create, examples


@click.command()
@click.argument("name", default="helpdesk")
@click.option("--to", type=click.Path(path_type=Path), help="Folder to write; default: NAME in the current folder.")
def init(name: str, to: Path | None) -> None:
    """Write a working example or skeleton into a new folder.

    NAME is a shipped example (agents, api_agent, coding, helpdesk, release, tools) or the name of your own project,
    which gets a minimal world, tasks, graders and workflow to start from.
    """
    folder = create(name, to)
    shipped = examples()
    what = f"the example {name}" if name in shipped else f"a skeleton to start from (examples: {', '.join(shipped)})"
    click.echo(f"wrote {folder}/: {what}")
    workflows = [file for file in (folder / "workflow.yaml", folder / "workflow.py") if file.is_file()]
    if workflows:
        click.echo(f"next: flyball doctor {workflows[0]}\nthen: flyball run {workflows[0]}")
    else:
        click.echo(f"next: read {folder / 'README.md'}, which says how it is started")

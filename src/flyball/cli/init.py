"""`flyball init`: from nothing to a folder that runs."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.workflow.scaffold import create


@click.command()
@click.argument("name", default="helpdesk")
@click.option("--to", type=click.Path(path_type=Path), help="Folder to write; default: NAME in the current folder.")
def init(name: str, to: Path | None) -> None:
    """Write a working example or skeleton into a new folder.

    NAME is a shipped example (`helpdesk`, the default) or the name of your own project, which gets a minimal world,
    tasks, graders and workflow to start from.
    """
    folder = create(name, to)
    yaml = folder / "workflow.yaml"
    file = yaml if yaml.is_file() else folder / "workflow.py"
    click.echo(f"wrote {folder}/\nnext: flyball doctor {file}\nthen: flyball run {file}")

"""`flyball config`: what a workflow file asks for, and what it could say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from pydantic_core import PydanticUndefined

from flyball.cli.group import Group
from flyball.cli.options import file_argument, home_option, open_store
from flyball.config import Settings
from flyball.section import Section
from flyball.settings_file import section_of
from flyball.workflow.napkin import Entry, judge_file

COLOURS = {"ready": "green", "built by this run": "cyan", "missing": "red"}


@click.group(cls=Group)
def config() -> None:
    """Show what a workflow file asks for, and the keys it may have."""


@config.command()
@file_argument
@home_option
def show(file: Path, home: Path) -> None:
    """Mark every entry of FILE: ready, built by this run, or missing and how to get it.

    Exits 0 also when entries are missing; `flyball run` is what refuses them.
    """
    versions: set[str] = set()
    if (home / "flyball.db").is_file():
        with open_store(home) as store:
            versions = {version.name for version in store.versions()}
    rows = judge_file(file, versions)
    for row in rows:
        _print(row)
    count = sum(row.state == "missing" for row in rows)
    click.echo(
        f"\n{len(rows)} entries, {count} missing" + ("; `flyball run` refuses the file as it is" if count else "")
    )


def _print(row: Entry) -> None:
    state = click.style(f"{row.state:<18}", fg=COLOURS[row.state])
    click.echo(f"{state}{row.key}: {row.value}")
    if row.note:
        click.echo(f"{'':<18}{row.note}")


@config.command()
def keys() -> None:
    """List every key of a workflow file with its default and its rule."""
    for dotted, default, rule in _keys(Settings, ""):
        click.echo(f"{dotted:<38}{default:<28}{rule}".rstrip())


def _keys(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, info in section.model_fields.items():
        inner = section_of(info.annotation)
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")
            continue
        default = "" if info.default in (None, PydanticUndefined) else _show(info.default)
        yield prefix + name, default, info.description or ""


def _show(default: object) -> str:
    return f"[{', '.join(map(str, default))}]" if isinstance(default, tuple) else str(default)

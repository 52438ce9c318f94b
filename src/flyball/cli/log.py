"""`flyball log`: the audit log and the keys of those who sign."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from flyball.cli.group import Group
from flyball.cli.options import home_option, open_store
from flyball.store.signing import SigningKey


@click.group(cls=Group)
def log() -> None:
    """Show the audit log, export it for the verifier, make signing keys."""


@log.command()
@click.option("--release", "release_id", help="Only what was done to this release.")
@home_option
def show(release_id: str | None, home: Path) -> None:
    """Print every act, the oldest first."""
    with open_store(home) as store:
        for entry in store.acts(subject=store.release(release_id).release_id if release_id else None):
            at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
            click.echo(
                f"{entry.seq:>5}  {at}  {entry.action:<16} {entry.subject[:12]:<12} {entry.actor}: {entry.reason}"
            )


@log.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@home_option
def export(folder: Path, home: Path) -> None:
    """Write the log for verifier/flyball_verify.py and print the public key that it must be told."""
    with open_store(home) as store:
        store.export_audit(folder)
        click.echo(store.audit_key.public)


@log.command()
@home_option
def checkpoint(home: Path) -> None:
    """Print the newest signed checkpoint; keep it where nobody who can write the store can reach it."""
    with open_store(home) as store:
        click.echo(store.checkpoint(), nl=False)


@log.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def key(path: Path) -> None:
    """Make a private key that only you hold, and print its public half for `flyball release owner`."""
    click.echo(SigningKey.create(path).public)

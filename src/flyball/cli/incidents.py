"""`flyball incidents`: opened, told, closed. As long as one is open no release expands. Needs no torch."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click

from flyball.cli.group import Group
from flyball.cli.options import FINITE, home_option, open_store
from flyball.cli.output import table
from flyball.gateway.incident_data import Form, export_incident, incident_sessions, suspects
from flyball.release.approvals import ROLES
from flyball.release.incidents import Incident, close_incident, give_cause, incident, note, open_incident
from flyball.release.incidents import incidents as all_incidents
from flyball.stats.written import NO_VALUE, format_estimate

MOST = 10
"""Rows of suspects that `show` prints."""

name_argument = click.argument("name", metavar="INCIDENT")
by_option = click.option("--by", required=True, help="Who says so; it is written into the audit log.")
now_option = click.option("--now", type=FINITE, help="Seconds since 1970. Default: now.")


@click.group(cls=Group)
def incidents() -> None:
    """Open an incident, tell what happened, and close it with a cause from each role."""


@incidents.command("list")
@home_option
def list_incidents(home: Path) -> None:
    """List every incident, the first opened first."""
    with open_store(home) as store:
        found = all_incidents(store)
    table(["incident", "state", "by", "detected after", "restored after", "reason"], [_row(one) for one in found])


@incidents.command("open")
@name_argument
@click.option("--reason", required=True)
@click.option("--began", type=FINITE, help="Since when users were harmed, seconds since 1970.")
@click.option("--release", "release_id", default="", help="The release it is about.")
@by_option
@now_option
@home_option
def open_one(
    name: str, reason: str, began: float | None, release_id: str, by: str, now: float | None, home: Path
) -> None:
    """Open INCIDENT: from now on no release expands."""
    with open_store(home) as store:
        open_incident(store, name, by=by, reason=reason, at=_time(now), began_at=began, release=release_id)


@incidents.command("note")
@name_argument
@click.argument("text")
@click.option("--restored", is_flag=True, help="From now on users are served well again.")
@by_option
@now_option
@home_option
def add_note(name: str, text: str, restored: bool, by: str, now: float | None, home: Path) -> None:
    """Add what was seen or done to the timeline."""
    with open_store(home) as store:
        note(store, name, by=by, text=text, at=_time(now), restored=restored)


@incidents.command()
@name_argument
@click.argument("text", metavar="CAUSE")
@click.option("--role", type=click.Choice(ROLES), required=True)
@by_option
@now_option
@home_option
def cause(name: str, text: str, role: str, by: str, now: float | None, home: Path) -> None:
    """Say what the cause was, as the owner of a role."""
    with open_store(home) as store:
        give_cause(store, name, role=role, by=by, cause=text, at=_time(now))


@incidents.command()
@name_argument
@by_option
@now_option
@home_option
def close(name: str, by: str, now: float | None, home: Path) -> None:
    """Close INCIDENT, once users are served well again and each role gave a cause."""
    with open_store(home) as store:
        close_incident(store, name, by=by, at=_time(now))


@incidents.command()
@name_argument
@home_option
def show(name: str, home: Path) -> None:
    """Print the timeline of INCIDENT, its times, its causes, and where its sessions failed."""
    with open_store(home) as store:
        found = incident(store, name)
        seen = suspects(incident_sessions(store, found))
    for entry in found.timeline:
        at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"{at}  {entry.action:<18} {entry.actor}: {entry.reason}")
    click.echo(f"detected after {_seconds(found.detect_seconds)}, restored after {_seconds(found.restore_seconds)}")
    for role in ROLES:
        click.echo(f"cause, {role}: {found.causes.get(role, 'not given yet')}")
    if seen:
        rows = [[one.version[:12], str(one.step), one.tool, format_estimate(one.failed)] for one in seen[:MOST]]
        table(["version", "step", "tool", "sessions that failed"], rows)
    click.echo(f"{len(seen)} of version x step x tool have labelled sessions whose calls are kept")


@incidents.command()
@name_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(get_args(Form)), default="jsonl", show_default=True)
@home_option
def export(name: str, folder: Path, form: Form, home: Path) -> None:
    """Write what ML, Platform and Product look at together into FOLDER: sessions, suspects, timeline."""
    with open_store(home) as store:
        count = export_incident(store, incident(store, name), folder, form)
    click.echo(f"{folder}: {count} sessions of incident {name}")


def _row(one: Incident) -> list[str]:
    state = "open" if one.closed_at is None else "closed"
    return [one.name, state, one.source, _seconds(one.detect_seconds), _seconds(one.restore_seconds), one.reason]


def _seconds(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.0f} s"


def _time(now: float | None) -> float:
    return time.time() if now is None else now

"""`flyball monitors`: what is watched of the version in force. An alarm opens an incident and promotes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flyball.cli.group import Group
from flyball.cli.options import FINITE, home_option, open_store, take_in
from flyball.cli.output import table
from flyball.config import read_settings
from flyball.errors import ReleaseError
from flyball.gateway.rescoring import rescore as score_again
from flyball.gateway.watching import live_sessions, refreshed_tasks
from flyball.release.incidents import incidents, raise_incident
from flyball.release.monitoring import monitors as monitors_named
from flyball.release.monitors import (
    DAY,
    MONITORS,
    LiveSession,
    Monitor,
    Reading,
    changed,
    read_monitor,
    told_changes,
    watched,
)
from flyball.release.registry import PRODUCTION, Registry
from flyball.stats.written import NO_VALUE, format_estimate
from flyball.store.store import Store
from flyball.tasks.dataset import write_tasks
from flyball.types import Task
from flyball.workflow.check import monitors_of
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow

ALARM = 3

optional_file = click.argument("file", type=click.Path(path_type=Path), required=False)
project_option = click.option("--project", help="Only of this project.")
now_option = click.option("--now", type=FINITE, help="Seconds since 1970; the window ends here. Default: now.")


@click.group(cls=Group)
def monitors() -> None:
    """Watch the version in force: definitions, distance from a frozen reference, alarms."""


@monitors.command("list")
@optional_file
def list_monitors(file: Path | None) -> None:
    """Print the definitions that FILE asks for, or all: unit, owner, window, baseline, alarm and what is measured."""
    chosen, _ = _asked(file, with_tasks=False)
    head = ["monitor", "unit", "owner", "window", "baseline", "alarm", "measures"]
    table(head, [[one.name, one.unit, one.owner, one.window, one.baseline, one.alarm, one.what] for one in chosen])
    _print_choice(chosen)


@monitors.command()
@optional_file
@click.option("--version", "said", help="Name or beginning of an id. Default: what is in production.")
@click.option("--reference", help="Version whose distance counts; default: the one that was scored last.")
@click.option(
    "--refresh",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TASKS.jsonl",
    help="After an alarm write what went wrong in the window as tasks for training.",
)
@click.option("--field", default="ticket", show_default=True, help="Public field of those tasks.")
@project_option
@now_option
@home_option
@click.pass_context
def watch(
    context: click.Context,
    file: Path | None,
    said: str | None,
    reference: str | None,
    refresh: Path | None,
    field: str,
    project: str | None,
    now: float | None,
    home: Path,
) -> None:
    """Look at the monitors that FILE asks for, or at all, and open an incident for every alarm.

    Exits 3 on an alarm. No routing changes: a person, or the gates of the next release, decide what follows.
    """
    chosen, known = _asked(file, with_tasks=refresh is not None)
    at = time.time() if now is None else now
    with open_store(home) as store:
        take_in(store, home)
        registry = Registry(store)
        frozen = registry.named(reference).version_id if reference else None
        sessions = live_sessions(store, project=project, reference=frozen)
        version = _version(registry, said, sessions)
        of = watched(sessions, version, at)
        found = [read_monitor(one, of) for one in chosen]
        click.echo(f"version {version[:12]}: {len(of.baseline)} sessions in its first week, {len(of.after)} after it")
        head = ["monitor", "state", "window", "first week", "measured in", "alarm where it", "owner"]
        table(head, [_row(one) for one in found])
        _print_choice(chosen)
        for one in found:
            if one.state == "not_evaluable":
                click.echo(f"{one.monitor.name}: {one.reason}")
        alarms = [one for one in found if one.state == "alarm"]
        for one in alarms:
            click.echo(f"incident: {_open(store, one, version, at)}: {one.reason}")
        if alarms and refresh:
            since = at - max(one.monitor.window_days for one in alarms) * DAY
            tasks = refreshed_tasks(store, project=project, since=since, field=field, known=known)
            write_tasks(refresh, tasks)
            click.echo(f"{len(tasks)} tasks of what went wrong are in {refresh}, for review; nothing trains by itself")
    if alarms:
        context.exit(ALARM)


@monitors.command()
@click.option("--reference", required=True, help="The frozen version: a name, or the beginning of an id.")
@click.option("--share", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Of the sessions.")
@project_option
@home_option
def rescore(reference: str, share: float, project: str | None, home: Path) -> None:
    """Score sampled live tokens again by a frozen reference, for `policy_kl_drift`. Run it beside the gateway."""
    with open_store(home) as store:
        take_in(store, home)
        version = Registry(store).named(reference)
        if not version.path:
            raise ReleaseError(
                f"{version.name} has no weights here, so nothing can be scored by it; the reference is a folder that "
                "was registered or trained"
            )
        from flyball.workflow.frozen_reference import frozen_reference  # torch

        arms = dict.fromkeys(("stable", "canary", "holdback"), share)
        score = frozen_reference(Path(version.path))
        done = score_again(store, score, reference=version.version_id, shares=arms, project=project)
    click.echo(
        f"{done.drawn} sessions in the sample, {done.scored} scored now, {done.without_tokens} without token ids that "
        "were drawn at random"
    )


def _asked(file: Path | None, *, with_tasks: bool) -> tuple[tuple[Monitor, ...], Sequence[Task]]:
    """The monitors that a workflow file asks for (all, without one), and its tasks where they are asked for.

    A file that holds settings alone has no tasks.
    """
    if file is None:
        return monitors_named(), ()
    if file.suffix != ".py":
        settings, marks = read_settings(file)
        if settings.python is None:
            return monitors_of(settings, marks), ()
    workflow = load_workflow(file)
    return monitors_of(workflow.settings, workflow.marks), Inputs(workflow).tasks if with_tasks else ()


def _print_choice(chosen: Sequence[Monitor]) -> None:
    """What the file makes other than the definitions: values that it sets, monitors that it leaves out."""
    for one in chosen:
        if told := told_changes(one):
            click.echo(f"{one.name}: set in the file: {told}")
    if left := MONITORS.keys() - {one.name for one in chosen}:
        click.echo(f"not watched, the file does not list them: {', '.join(sorted(left))}")


def _version(registry: Registry, said: str | None, sessions: Sequence[LiveSession]) -> str:
    """The version that is watched: the named one, what is in production, or who served last."""
    if said:
        served = {one.record.policy_version for one in sessions}
        return said if said in served else registry.named(said).version_id
    if (serving := registry.alias(PRODUCTION)) is not None:
        return serving.version_id
    stable = [one for one in sessions if one.record.arm == "stable"]
    if not stable:
        raise ReleaseError("no session was served by the arm stable, so there is nothing to watch")
    return max(stable, key=lambda one: one.at).record.policy_version


def _open(store: Store, reading: Reading, version: str, at: float) -> str:
    """The open incident of this monitor and version, or a new one; returns its name."""
    for known in incidents(store):
        told = known.timeline[0].detail
        if known.closed_at is None and (told.get("monitor"), told.get("version")) == (reading.monitor.name, version):
            return known.name
    day = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
    name = f"{reading.monitor.name}.{day}"
    of = reading.monitor
    detail: dict[str, Any] = {"monitor": of.name, "version": version, "owner": of.owner}
    detail |= {"alarm": of.alarm, "window": of.window, "changed": changed(of)}
    raise_incident(store, name, source="alarm", by="flyball", reason=reading.reason, at=at, detail=detail)
    return name


def _row(reading: Reading) -> list[str]:
    seen, of = reading.coverage
    part = f" ({reading.part})" if reading.part else ""
    now, before = (NO_VALUE if one is None else format_estimate(one) for one in (reading.now, reading.before))
    return [
        reading.monitor.name + part,
        reading.state,
        now,
        before,
        f"{seen} of {of}",
        reading.monitor.alarm,
        reading.monitor.owner,
    ]

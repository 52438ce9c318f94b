"""`flyball release tick`: one look at a release, at its canary or, once everybody has it, at what it became."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.canary import print_verdict
from flyball.cli.options import home_option, open_store
from flyball.cli.release_state import (
    moment,
    now_option,
    plan_under_way,
    print_status,
    sessions_argument,
    sessions_of,
    under_way,
)
from flyball.gateway.release_facts import ARMS, ReleaseFacts, release_facts
from flyball.release.canary.units import ServedSession
from flyball.release.change import WATCHED
from flyball.release.controller import Controller, incident_name
from flyball.release.evidence import Evidence
from flyball.release.incidents import incident
from flyball.release.live import live_from_sessions
from flyball.release.online import ONLINE_GATES
from flyball.release.registry import Registry
from flyball.store.store import Store

ALARM = 3


@click.command()
@sessions_argument
@click.option("--reference", help="Version whose distance counts; default: the one that was scored last.")
@now_option
@home_option
@click.pass_context
def tick(
    context: click.Context, sessions_file: Path | None, reference: str | None, now: float | None, home: Path
) -> None:
    """Look at the sessions of the canary and do what follows: stay, hold, advance, promote or go back.

    Without SESSIONS.jsonl they are those that the gateways of this home have served. Lost records, distance from the
    reference and graded quality are read from the store. Once everybody has the release, look whether it became worse
    than it was when it was promoted: an alarm opens an incident, moves nothing, and the exit code is 3.
    """
    at = moment(now)
    with open_store(home) as store:
        sessions = sessions_of(store, home, sessions_file)
        if under_way(store).stage == "general":
            alarms = _watch(store, sessions, at)
        else:
            alarms = 0
            _look(store, sessions, at, reference)
        print_status(store)
    context.exit(ALARM if alarms else 0)


def _look(store: Store, sessions: list[ServedSession], now: float, reference: str | None) -> None:
    controller, plan = Controller(store), plan_under_way(store)
    frozen = Registry(store).named(reference).version_id if reference else None
    found = release_facts(store, under_way(store), since=controller.begun(), now=now, reference=frozen)
    live = live_from_sessions(sessions, plan, now, telemetry=found.telemetry, kl=found.kl, quality=found.quality)
    looked = controller.tick(plan, sessions, now, live)
    print_verdict(looked.verdict)
    for one in (gate.evaluate(Evidence(live=live)) for gate in ONLINE_GATES):
        click.echo(f"{one.state:<14} {one.name} ({one.owner}): {one.reason}")
    click.echo(f"store:   {_coverage(found)}")
    click.echo(f"move:    {looked.decision.move}: {looked.decision.reason}")


def _coverage(found: ReleaseFacts) -> str:
    graded = ", ".join(f"{found.graded[arm].n} of {found.graded[arm].of} {arm}" for arm in ARMS)
    return f"{found.scored.n} of {found.scored.of} canary sessions scored again; graded: {graded} sessions"


def _watch(store: Store, sessions: list[ServedSession], now: float) -> int:
    """Print what change detection finds, and return the number of alarms."""
    table = under_way(store)
    alarms = Controller(store).watch(plan_under_way(store), sessions, now)
    since = sum(table.since <= one.assigned_at <= now for one in sessions)
    click.echo(f"watch:   {since} sessions since the promotion, {len(alarms)} alarms of {', '.join(WATCHED)}")
    for alarm in alarms:
        opened = incident(store, incident_name(table.release_id, alarm.metric))
        state = "open" if opened.closed_at is None else "closed, and the alarm goes on"
        click.echo(f"alarm:   {alarm}; incident {opened.name} is {state}")
    return len(alarms)

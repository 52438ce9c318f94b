"""`flyball release tick`: one look at a release: at its shadow, its canary, and at what became of it with everybody."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.canary import print_verdict
from flyball.cli.options import home_option, open_store
from flyball.cli.release_state import (
    live_of,
    moment,
    now_option,
    plan_under_way,
    print_status,
    sessions_argument,
    sessions_of,
    under_way,
)
from flyball.gateway.release_facts import ARMS, ReleaseFacts
from flyball.gateway.shadow_facts import shadowed_sessions
from flyball.release.canary.steps import Decision
from flyball.release.canary.units import ServedSession
from flyball.release.change import WATCHED
from flyball.release.controller import Controller, incident_name
from flyball.release.evidence import Evidence
from flyball.release.incidents import incident
from flyball.release.online import ONLINE_GATES
from flyball.release.shadow import Shadowed
from flyball.stats.written import format_estimate
from flyball.store.store import Store
from flyball.types import GateResult

WENT_BACK, ALARM = 1, 3


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

    The sessions are those that the gateways of this home served, or those of SESSIONS.jsonl. In shadow what was
    shadowed is compared and recorded, and holds the canary until it agrees. Later the shadow, lost records, distance
    from the reference and graded quality are read from the store too. Once everybody has the release, look whether it
    became worse than it was when it was promoted: an alarm opens an incident and moves nothing.

    Exit codes: 0 whatever else was done, 1 the canary went back, 3 an alarm, 4 an error.
    """
    at = moment(now)
    with open_store(home) as store:
        sessions = sessions_of(store, home, sessions_file)
        code, stage = 0, under_way(store).stage
        if stage == "shadow" and sessions_file is not None:
            raise click.UsageError("a release in shadow has no sessions of its own yet: leave SESSIONS.jsonl out")
        if stage == "shadow":
            _look_at_shadow(store, at)
        elif stage == "general":
            code = ALARM if _watch(store, sessions, at) else 0
        else:
            code = WENT_BACK if _look(store, sessions, at, reference).move == "go_back" else 0
        print_status(store)
    context.exit(code)


def _look_at_shadow(store: Store, now: float) -> None:
    controller, found = Controller(store), shadowed_sessions(store, under_way(store), now=now)
    _print_gate(controller.look_at_shadow(found, now))
    click.echo(f"shadow:  {_shadow(found)}")
    against = controller.holds(plan_under_way(store), now)
    held = f"hold: held by {against[0]}" if against else "stay: a named person begins the canary"
    click.echo(f"move:    {held}")


def _print_gate(one: GateResult) -> None:
    click.echo(f"{one.state:<14} {one.name} ({one.owner}): {one.reason}")


def _shadow(found: Shadowed) -> str:
    said = f"{len(found.pairs)} of {found.chosen} chosen sessions compared"
    if (compared := found.comparison) is None:
        return said
    called = sum(bool(pair.stable.tools or pair.shadow.tools) for pair in found.pairs)
    more = [f"{called} with a tool call", f"agreement {format_estimate(compared.agreement)}"]
    if compared.tool_calls and compared.latency:
        more += [f"tools {format_estimate(compared.tool_calls, signed=True)}"]
        more += [f"model time {format_estimate(compared.latency)}"]
    return "; ".join([said, *more])


def _look(store: Store, sessions: list[ServedSession], now: float, reference: str | None) -> Decision:
    live, found = live_of(store, sessions, now, reference)
    looked = Controller(store).tick(plan_under_way(store), sessions, now, live)
    print_verdict(looked.verdict)
    for gate in ONLINE_GATES:
        _print_gate(gate.evaluate(Evidence(live=live)))
    click.echo(f"shadow:  {_shadow(found.shadow)}")
    click.echo(f"store:   {_coverage(found)}")
    click.echo(f"move:    {looked.decision.move}: {looked.decision.reason}")
    return looked.decision


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

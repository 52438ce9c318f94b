"""What the commands of `flyball release` share: who acts and when, the release under way, and what holds it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flyball.cli.options import FINITE, take_in
from flyball.errors import ReleaseError, StoreError
from flyball.gateway.release_facts import ReleaseFacts, release_facts
from flyball.gateway.release_sessions import release_sessions
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.read import read_sessions
from flyball.release.canary.units import ServedSession
from flyball.release.controller import Controller
from flyball.release.kept import kept_plan
from flyball.release.live import Live, live_from_sessions
from flyball.release.registry import Registry
from flyball.release.routing import RoutingTable
from flyball.store.store import Store

by_option = click.option("--by", required=True, help="Who does this; it is written into the audit log.")
sessions_argument = click.argument(
    "sessions_file", metavar="[SESSIONS.jsonl]", required=False, type=click.Path(path_type=Path)
)
NEXT = {"shadow": "flyball release canary --by NAME", "canary": "flyball release tick, by a schedule"}
"""What to do with a release that nothing holds, by its stage."""
now_option = click.option("--now", type=FINITE, help="Seconds since 1970. Default: now.")


def moment(now: float | None) -> float:
    """`--now`, or the time of this machine."""
    return time.time() if now is None else now


def under_way(store: Store) -> RoutingTable:
    """The routing table in force. Raises ReleaseError before the first release."""
    if (found := Controller(store).table()) is None:
        raise ReleaseError(
            "no release was launched yet: `flyball release judge` opens one, `flyball release launch` begins its shadow"
        )
    return found


def plan_under_way(store: Store) -> CanaryPlan:
    """The plan that the release under way follows. Raises ReleaseError before the first release."""
    return kept_plan(store, under_way(store).plan)


def sessions_of(store: Store, home: Path, file: Path | None) -> list[ServedSession]:
    """The sessions of a file, or those that gateways of this home served under the release; either way what they
    spooled is in the store afterwards, as far as it can be read. Raises ReleaseError for a file that is wrong."""
    try:
        take_in(store, home)
    except StoreError as error:  # what is known must still be able to send users back
        click.echo(f"store:   not everything that was spooled could be read: {error}", err=True)
    return read_sessions(file) if file else release_sessions(store, under_way(store))


def live_of(
    store: Store, sessions: list[ServedSession], now: float, reference: str | None = None
) -> tuple[Live, ReleaseFacts]:
    """What the online gates judge of the canary under way, and what of it the store knows beside the sessions.

    `reference`: the version whose distance counts, None = the one that was scored last. Raises ReleaseError.
    """
    frozen = Registry(store).named(reference).version_id if reference else None
    since = Controller(store).begun()
    found = release_facts(store, under_way(store), since=since, now=now, reference=frozen)
    live = live_from_sessions(
        sessions,
        plan_under_way(store),
        now,
        shadow=found.shadow.comparison,
        telemetry=found.telemetry,
        kl=found.kl,
        quality=found.quality,
    )
    return live, found


def print_status(store: Store) -> None:
    """Print where the release is."""
    found = under_way(store)
    share = f" at {100 * found.share:g} %" if found.share else ""
    click.echo(f"release {found.release_id[:12]}: {found.stage}{share}, table {found.version}: {found.reason}")


def print_holds(store: Store, now: float) -> None:
    """Print what holds a release that may still expand, one line each, or what comes next."""
    controller = Controller(store)
    if (table := controller.table()) is None or table.stage not in NEXT:
        return
    reasons = controller.holds(plan_under_way(store), now)
    for reason in reasons:
        click.echo(f"held:    {reason}")
    if not reasons:
        click.echo(f"next:    {NEXT[table.stage]}")

"""What the commands of `flyball release` share: who acts and when, the release under way, and what holds it."""

from __future__ import annotations

import time

import click

from flyball.cli.options import FINITE
from flyball.errors import ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.release.controller import Controller
from flyball.release.kept import kept_plan
from flyball.release.routing import RoutingTable
from flyball.store.store import Store

by_option = click.option("--by", required=True, help="Who does this; it is written into the audit log.")
now_option = click.option("--now", type=FINITE, help="Seconds since 1970. Default: now.")


def moment(now: float | None) -> float:
    """`--now`, or the time of this machine."""
    return time.time() if now is None else now


def under_way(store: Store) -> RoutingTable:
    """The routing table in force. Raises ReleaseError before the first release."""
    if (found := Controller(store).table()) is None:
        raise ReleaseError("no release was launched yet")
    return found


def plan_under_way(store: Store) -> CanaryPlan:
    """The plan that the release under way follows. Raises ReleaseError before the first release."""
    return kept_plan(store, under_way(store).plan)


def print_status(store: Store) -> None:
    """Print where the release is."""
    found = under_way(store)
    share = f" at {100 * found.share:g} %" if found.share else ""
    click.echo(f"release {found.release_id[:12]}: {found.stage}{share}, table {found.version}: {found.reason}")


def print_holds(store: Store, now: float) -> None:
    """Print what holds a release that may still expand, one line each."""
    controller = Controller(store)
    if (table := controller.table()) is not None and table.stage in ("shadow", "canary"):
        for reason in controller.holds(plan_under_way(store), now):
            click.echo(f"held:    {reason}")

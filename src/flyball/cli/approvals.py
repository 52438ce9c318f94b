"""`flyball approvals`: the inbox of the person who approves."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from flyball.cli.group import Group
from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.store.approvals import Approval

ARGUMENT_CHARS = 80

approval_argument = click.argument("approval_id", metavar="ID")
actor_option = click.option("--by", "actor", help="Who answers. Default: the user of this machine.")
reason_option = click.option("--reason", default="", help="Why, for the record.")


@click.group(cls=Group)
def approvals() -> None:
    """List the calls that wait for a person, approve or deny them."""


@approvals.command("list")
@click.option(
    "--state",
    type=click.Choice(["pending", "approved", "denied", "expired", "all"]),
    default="pending",
    show_default=True,
)
@home_option
def list_approvals(state: str, home: Path) -> None:
    """List requests, the oldest first."""
    with open_store(home) as store:
        found = store.approvals(None if state == "all" else state)  # type: ignore[arg-type]  # click has checked it
    if not found:
        click.echo("no call waits for a person" if state == "pending" else f"no request is {state}")
        return
    table(
        ["id", "state", "tool", "expires", "by", "arguments"],
        [[a.approval_id, a.state, a.tool, a.expires_at, a.actor, _short(a.arguments)] for a in found],
    )


@approvals.command()
@approval_argument
@actor_option
@reason_option
@home_option
def approve(approval_id: str, actor: str | None, reason: str, home: Path) -> None:
    """Let a call be carried out. ID may be its beginning, as long as no other one shares it."""
    with open_store(home) as store:
        _say(store.answer_approval(approval_id, "approve", actor or getpass.getuser(), reason))


@approvals.command()
@approval_argument
@actor_option
@reason_option
@home_option
def deny(approval_id: str, actor: str | None, reason: str, home: Path) -> None:
    """Refuse a call. ID may be its beginning, as long as no other one shares it."""
    with open_store(home) as store:
        _say(store.answer_approval(approval_id, "deny", actor or getpass.getuser(), reason))


def _say(answered: Approval) -> None:
    click.echo(f"{answered.approval_id} {answered.state} by {answered.actor}: {answered.tool} {answered.arguments}")


def _short(text: str) -> str:
    return text if len(text) <= ARGUMENT_CHARS else text[: ARGUMENT_CHARS - 1] + "…"

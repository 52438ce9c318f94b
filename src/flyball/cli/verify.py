"""`flyball verify`: a release worked out again from what is stored."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.cli.options import home_option, open_store
from flyball.release.replay import replay_release

DIFFERS = 1


@click.command()
@click.argument("release_id", metavar="RELEASE")
@home_option
@click.pass_context
def verify(context: click.Context, release_id: str, home: Path) -> None:
    """Work out every decision of a release again from its stored sessions, to the last bit.

    Exit codes: 0 all came out the same, 1 one did not, 4 an error. The log itself and its signatures are verified by
    verifier/flyball_verify.py, which shares no code with Flyball (`flyball log export`).
    """
    with open_store(home) as store:
        decisions = replay_release(store, release_id)
    for decision in decisions:
        state = click.style("differs", fg="red") if decision.problem else click.style("same", fg="green")
        place = f"entry {decision.seq}" if decision.seq >= 0 else "judged"
        click.echo(f"{state:<8} {place:<9} {decision.what}")
        if decision.problem:
            click.echo(f"{'':<8} {decision.problem}")
    context.exit(DIFFERS if any(decision.problem for decision in decisions) else 0)

"""`flyball doctor sandbox`: what holds code in on this host, and what each rung lacks."""

from __future__ import annotations

import click

from flyball.cli.output import print_findings
from flyball.evals.sandbox_checks import check_rungs

NOTHING_HOLDS = 1


@click.command()
@click.pass_context
def sandbox(context: click.Context) -> None:
    """Try every rung of the sandbox: a probe runs inside it and tries what must not work.

    The last line names the rung in force. FLYBALL_SANDBOX chooses one by its name; untested ones are used in no other
    way. Exits 1 where none is in force that runs any program.
    """
    for finding in check_rungs():
        print_findings([finding])
    if finding.level != "ok":
        context.exit(NOTHING_HOLDS)

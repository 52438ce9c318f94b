"""`flyball gateway`: OpenAI's interface for agents, captured and routed by release. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import click

from flyball.gateway.serve import serve


@click.command()
@click.argument("file", metavar="GATEWAY.yaml", type=click.Path(path_type=Path))
def gateway(file: Path) -> None:
    """Serve agents over OpenAI's interface: captured, routed, checked.

    Serves until Ctrl-C. Point an agent at it with OPENAI_BASE_URL=http://HOST:PORT/v1 and OPENAI_API_KEY=KEY/SESSION.
    """
    serve(file, click.echo)

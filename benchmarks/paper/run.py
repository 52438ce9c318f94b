"""The papers' mechanisms in miniature: runs what is missing of every row and writes the results.

    python -m benchmarks.paper.run                  # all rows; make paper
    python -m benchmarks.paper.run dapo greso       # these rows
    python -m benchmarks.paper.page > docs/results.md

An arm of a row that was finished with the same code is not run again. Missed claims need a reason in reasons.json.
"""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from benchmarks.paper import (
    dapo,
    farmed_credit,
    greso,
    index_bias,
    overoptimisation,
    parallel_calls,
    peak_memory,
    prm_best_of_n,
    sec,
    sft_then_rl,
    sparse_batch,
    staleness,
    tool_budget,
    tool_necessity,
    turn_credit,
)
from benchmarks.paper.mini import FOLDER, Row, complete, findings
from benchmarks.result import publish
from flyball.errors import FlyballError

REASONS = Path(__file__).with_name("reasons.json")
ROWS: dict[str, Row] = {
    module.ROW.name: module.ROW
    for module in (
        dapo, greso, turn_credit, index_bias, staleness, sft_then_rl, prm_best_of_n, overoptimisation, sec, tool_budget,
        parallel_calls, tool_necessity, sparse_batch, farmed_credit, peak_memory,
    )
}  # fmt: skip


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(ROWS)))
def main(names: tuple[str, ...]) -> None:
    """Run NAMES (default: every row), then write and print their results."""
    reasons = orjson.loads(REASONS.read_bytes())
    try:
        for name in names or ROWS:
            row = ROWS[name]
            found = findings(row, complete(row))
            own = {claim: text for claim, text in reasons.items() if claim.startswith(f"{name}.")}
            command = f"python -m benchmarks.paper.run {name}"
            for result in publish(name, found, command=command, reasons=own, kind="reproduction", folder=FOLDER):
                low, high = result.interval
                said = "holds " if result.holds else "MISSED"
                print(f"{said}  {result.id:40} {result.value:8.3f} [{low:.3f}, {high:.3f}]")
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc


if __name__ == "__main__":
    main()

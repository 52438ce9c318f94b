"""An hour of traffic through the gateway: does its memory stay flat, does it err, does it lose a call?

    python -m benchmarks.soak                        # 60 minutes at 200 requests a second, and some to count the store
    python -m benchmarks.soak --minutes 3 --rate 50  # to try it

One worker in front of the mock upstream of `benchmarks.gateway_servers`. Every request is a session of its own, so
whatever the gateway remembers of a session is remembered for each. One row a minute, kept if the run is cut short.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from scipy.stats import theilslopes

from benchmarks.gateway import load, quantiles
from benchmarks.gateway_servers import gateway_server, mock_server
from benchmarks.result import RESULTS, Finding, Interval, append_row, publish, read_rows, rows_file
from flyball.stats.binomial import wilson
from flyball.store.store import Store

NAME = "soak"
WARM = 10
"""Minutes that the memory may take to settle; they are in the rows and not in the slope."""
FLAT = 5.0
"""MB an hour."""


def run(minutes: int, rate: int, path: Path, scratch: Path) -> None:
    """Write a row for each minute, then one that counts what lies in the store."""
    answered = 0
    with mock_server() as mock, gateway_server(scratch, mock.url, store="store") as gateway:
        for minute in range(minutes):
            before = gateway.cpu_seconds()
            row: dict[str, Any] = {"part": "minute", "minute": minute, "rate": rate}
            try:
                taken = asyncio.run(load(gateway.url, rate, 60.0, sessions=f"m{minute}-"))
                row |= {"answered": len(taken), "error": "", **quantiles(taken)}
            except Exception as error:
                row |= {"answered": 0, "error": f"{type(error).__name__}: {error}"[:300]}
            used = gateway.cpu_seconds() - before
            row |= {"memory_mb": round(gateway.memory_mb(), 2), "cpu_seconds": round(used, 2)}
            append_row(path, row)
            print(row, flush=True)
            answered += row["answered"]
    row = {"part": "store", "answered": answered, "stored": _stored(scratch)}
    append_row(path, row)
    print(row, flush=True)


def _stored(scratch: Path) -> int:
    """Calls of the spool, after ingestion."""
    with Store(scratch / "store") as store:
        for worker in sorted((scratch / "store" / "spool").iterdir()):
            store.ingest(worker)
        return sum(1 for _ in store.calls())


def findings(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """Memory, errors and losses of one run."""
    minutes, (store,) = [r for r in rows if r["part"] == "minute"], [r for r in rows if r["part"] == "store"]
    settled = [r for r in minutes if r["minute"] >= WARM]
    memory, at = [r["memory_mb"] for r in settled], [r["minute"] / 60 for r in settled]
    slope, _, low, high = theilslopes(memory, at, alpha=0.95)
    sent = sum(60 * r["rate"] for r in minutes)
    failed = sum(60 * r["rate"] - r["answered"] for r in minutes)
    lost = store["answered"] - store["stored"]
    about = {"first_mb": minutes[0]["memory_mb"], "settled_mb": memory[0], "last_mb": memory[-1]}
    about |= {
        "cpu_seconds": sum(r["cpu_seconds"] for r in minutes),
        "p99_ms": float(np.median([r["p99_ms"] for r in minutes])),
    }
    length = f"{len(minutes)} minutes at {minutes[0]['rate']} requests a second"
    return [
        Finding(
            f"{NAME}.memory",
            f"{length}: the memory of the gateway is flat after the first {WARM} minutes",
            f"Theil-Sen slope of resident memory over the minutes, its 95 % upper bound at most {FLAT:g} MB an hour",
            float(slope), (float(low), float(high)), len(settled), "MB/h", bool(high <= FLAT), about,
        ),
        _none("errors", f"{length}: every request is answered with 200", failed, sent),
        _none("loss", f"{length}: every call that was answered is in the store", lost, store["answered"]),
    ]  # fmt: skip


def _none(name: str, claim: str, count: int, n: int) -> Finding:
    """A claim that something never happened, with the bound that its n gives."""
    share = wilson(count, n) if 0 <= count <= n else None
    interval: Interval = (share.low * n, share.high * n) if share else (None, None)
    rule = f"0 of {n}; interval: Wilson, times n"
    return Finding(f"{NAME}.{name}", claim, rule, float(count), interval, n, "requests", count == 0)


@click.command()
@click.option("--minutes", type=click.IntRange(min=WARM + 3), default=60, show_default=True)
@click.option("--rate", type=click.IntRange(min=1), default=200, show_default=True, help="Requests a second.")
@click.option("--reasons", type=click.Path(path_type=Path, exists=True), help="JSON: claim id to why it was missed.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="For the results.")
def main(minutes: int, rate: int, reasons: Path | None, folder: Path) -> None:
    """Run once and write the results; with the reasons of a run that missed something, write those of its rows."""
    path = rows_file(NAME, folder)
    if reasons is None:
        path.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            run(minutes, rate, path, Path(scratch))
    found = findings(read_rows(path))
    for each in found:
        print(f"{each.id}: {each.value:.4g} {each.unit} {'holds' if each.holds else 'MISSED'}, n={each.n}")
    publish(
        NAME,
        found,
        command=f"python -m benchmarks.{NAME}",
        reasons=orjson.loads(reasons.read_bytes()) if reasons else {},
        folder=folder,
    )


if __name__ == "__main__":
    main()

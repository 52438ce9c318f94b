"""The way back under load: from a rollback, or the kill switch, until no user is answered by the candidate.

    python -m benchmarks.restore --rounds 5          # about 2 minutes

Four workers serve half of the sessions by the candidate while requests come at a steady rate. `rollback`: from the
controller's decision until `Controller.confirm_restored` has seen a second of answers to users, none by the candidate,
through `RunningGateway`. `kill`: from the kill file until the last answer of the candidate reached a client.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from benchmarks.gateway import load
from benchmarks.gateway_servers import KEY, free_port, gateway_server, mock_server
from benchmarks.result import RESULTS, Finding, append_row, publish, read_rows, rows_file
from flyball.gateway.running import RunningGateway
from flyball.release.controller import Controller
from flyball.release.registry import PRODUCTION, Registry, new_version
from flyball.release.routing import RoutingTable
from flyball.store.audit import Act
from flyball.store.store import Store
from flyball.types import Release

NAME = "restore"
WORKERS = 4
OPERATOR_KEY = "bench-operator"
LIMITS = {"rollback": 10.0, "kill": 2.0}
"""Seconds of the claims."""


def canary_under_way(store: Store) -> RoutingTable:
    """Half the sessions on the candidate."""
    old, new = (new_version(name=name, weights=name, base="mock") for name in ("old", "new"))
    registry = Registry(store)
    for version in (old, new):
        registry.register(version)
    registry.place_alias(PRODUCTION, old.version_id, "the first")
    store.put_release(Release("r", old.version_id, new.version_id, "canary", (), "ready"))
    table = RoutingTable(
        version=1,
        release_id="r",
        stage="canary",
        stable=old.version_id,
        candidate=new.version_id,
        share=0.5,
        salt="00ff",
        unit="session",
        plan="p",
        since=time.time(),
    )
    act = Act(action="route", actor="benchmark", at=table.since, subject="r", detail={"stage": "canary"})
    store.add_route(1, "r", table.to_json(), act)
    return table


def one(kind: str, folder: Path, rate: int) -> dict[str, Any]:
    """One way back under load."""
    with Store(folder / "store") as store, mock_server() as mock:
        table, own = canary_under_way(store), free_port()
        upstream = {"url": f"{mock.url}/v1"}
        settings = {
            "worker_port": own,
            "store": "store",
            "keys": [{"key_env": "BENCH_KEY"}, {"key_env": "BENCH_OPERATOR", "role": "operator"}],
            "upstreams": {
                "old": {**upstream, "model": "old", "version": table.stable},
                "new": {**upstream, "model": "new", "version": table.candidate},
            },
        }
        with gateway_server(folder, mock.url, workers=WORKERS, **settings) as gateway:
            addresses = [f"http://127.0.0.1:{own + n}" for n in range(WORKERS)]
            with RunningGateway(addresses, OPERATOR_KEY) as running:
                found = asyncio.run(_under_load(kind, gateway.url, folder, running, store, rate))
    return {"kind": kind, "rate": rate, **found}


async def _under_load(
    kind: str, url: str, folder: Path, running: RunningGateway, store: Store, rate: int
) -> dict[str, Any]:
    seen: list[tuple[float, str]] = []

    def note(answer: dict[str, Any]) -> None:
        seen.append((time.perf_counter(), answer["model"]))

    while any(answer.table < 1 for answer in await asyncio.to_thread(running.probe, "")):
        await asyncio.sleep(0.1)
    asking = asyncio.create_task(load(url, rate, 10.0, note))
    await asyncio.sleep(2.0)
    began, told = time.perf_counter(), {}
    if kind == "kill":
        (folder / "KILL").touch()
    else:
        told["confirmed_seconds"] = await asyncio.to_thread(_roll_back, store, running)
    await asking
    before = [model for at, model in seen if at < began]
    last = max((at - began for at, model in seen if model == "new"), default=0.0)
    share = before.count("new") / len(before)
    return {"n": len(seen), "share_before": share, "last_answer_seconds": max(0.0, last), **told}


def _roll_back(store: Store, running: RunningGateway) -> float:
    controller = Controller(store)
    controller.roll_back(by="benchmark", reason="measured", now=time.time())
    while (found := controller.confirm_restored(running, time.time())) is None:
        time.sleep(0.1)
    return found.restore_seconds


def findings(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """One claim for each way back: the slowest round is within its limit."""
    found = []
    for kind, most in LIMITS.items():
        name = "confirmed_seconds" if kind == "rollback" else "last_answer_seconds"
        if values := [row[name] for row in rows if row["kind"] == kind]:
            claim = f"After the {kind} no user of {WORKERS} workers under load meets the candidate within {most:g} s"
            rule = f"{name} of every round below {most:g}; value: median, interval: span of the rounds"
            value, span = statistics.median(values), (min(values), max(values))
            details = {"share_before": [row["share_before"] for row in rows if row["kind"] == kind]}
            found.append(Finding(f"{NAME}.{kind}", claim, rule, value, span, len(values), "s", span[1] < most, details))
    return found


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--rate", default=100, show_default=True, help="Requests a second.")
@click.option("--reasons", type=click.Path(exists=True, path_type=Path), help="JSON of claim id to why it was missed.")
@click.option("--folder", type=click.Path(path_type=Path), default=RESULTS, help="Where results are written.")
def main(rounds: int, rate: int, reasons: Path | None, folder: Path) -> None:
    """Measure, and write the results."""
    os.environ.update(BENCH_OPERATOR=OPERATOR_KEY, BENCH_KEY=KEY)
    path = rows_file(NAME, folder)
    path.unlink(missing_ok=True)
    for number in range(rounds):
        for kind in LIMITS:
            with tempfile.TemporaryDirectory(prefix="flyball-restore-") as home:
                row = {"round": number, **one(kind, Path(home), rate)}
            append_row(path, row)
            click.echo(orjson.dumps(row).decode())
    why = orjson.loads(reasons.read_bytes()) if reasons else {}
    publish(NAME, findings(read_rows(path)), command=f"python -m benchmarks.{NAME}", reasons=why, folder=folder)


if __name__ == "__main__":
    main()

"""How long does `flyball verify` take? 100,000 pairs of stored sessions read, judged and decided again.

    python -m benchmarks.replay --times 5        # about a minute on one core

The release is made once: 200,000 sessions, the plan and the verdict as artifacts, the decision in the audit log. A
replay reads all of it from the store, as `flyball verify RELEASE` does.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.canary import FOREVER, PLAN, Candidate, traffic
from benchmarks.result import RESULTS, Finding, append_row, publish, read_rows, rows_file
from flyball.release.canary.steps import Standing, decide
from flyball.release.canary.verdict import judge_canary
from flyball.release.kept import keep_plan, keep_sessions, keep_verdict
from flyball.release.replay import replay_release
from flyball.release.verdict import READY, content_id
from flyball.store.audit import Act
from flyball.store.store import Store
from flyball.types import Release

NAME = "replay"
LIMIT_SECONDS = 5.0


def a_release(store: Store, pairs: int) -> str:
    """A release that one look at `pairs` pairs took back at its horizon; returns its id."""
    served = traffic(np.random.default_rng(0), 2 * pairs, Candidate())
    verdict = judge_canary(served, PLAN, FOREVER)
    standing = Standing(0.5, 0.0, 0.0)
    decision = decide(PLAN, standing, verdict, FOREVER)
    release_id = content_id("old", "new", ())
    store.put_release(Release(release_id, "old", "new", "canary", (), READY))
    evidence = {
        "plan": keep_plan(store, PLAN),
        "sessions": keep_sessions(store, served),
        "verdict": keep_verdict(store, verdict),
    }
    look = {"now": FOREVER, "move": decision.move, "word": verdict.word, **vars(standing)}
    act = Act(action="route", actor="benchmark", at=0.0, subject=release_id, evidence=evidence, detail={"look": look})
    store.add_act(act)
    return release_id


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """The median of the replays in processor seconds: it is one thread, so on an idle machine those of the clock."""
    seconds = sorted(row["cpu"] for row in rows)
    return [
        Finding(
            "replay.stored",
            f"{rows[0]['pairs']:,} pairs are read from the store, judged and decided again to the same bits",
            f"median under {LIMIT_SECONDS:g} processor seconds, every decision the same; interval: fastest to slowest",
            float(np.median(seconds)),
            (seconds[0], seconds[-1]),
            len(rows),
            "s",
            bool(np.median(seconds) < LIMIT_SECONDS and all(row["same"] for row in rows)),
            {"clock_seconds": [row["seconds"] for row in rows]},
        )
    ]


@click.command()
@click.option("--pairs", type=click.IntRange(min=100), default=100_000, show_default=True)
@click.option("--times", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Where results go.")
@click.option("--reason", default="", help="Why a missed target was missed, if it was.")
def main(pairs: int, times: int, folder: Path, reason: str) -> None:
    """Replay, then write the finding."""
    path = rows_file(NAME, folder)
    with tempfile.TemporaryDirectory() as name, Store(name) as store:
        release_id = a_release(store, pairs)
        for seed in range(len(read_rows(path)), times):
            started, worked = time.perf_counter(), time.process_time()
            decisions = replay_release(store, release_id)
            seconds, cpu = time.perf_counter() - started, time.process_time() - worked
            same = len(decisions) == 2 and not any(decision.problem for decision in decisions)
            append_row(path, {"seed": seed, "pairs": pairs, "seconds": seconds, "cpu": cpu, "same": same})
    (found,) = findings(read_rows(path))
    print(f"{'holds ' if found.holds else 'missed'} {found.id} {found.value:.2f} s, n={found.n}")
    command = f"python -m benchmarks.replay --pairs {pairs} --times {times}"
    publish(NAME, [found], command=command, reasons={found.id: reason}, folder=folder)


if __name__ == "__main__":
    main()

"""Attempts ahead of the learner against attempts in turn with it, where waiting for tools is what a step costs.

    python -m benchmarks.async_speedup --repeats 5

Real learner, engine, agent loop and scheduler on a policy so small that its arithmetic is a few percent of a step.
Every attempt waits once, for a time drawn from a lognormal distribution. The k-th attempt at a task waits equally long
in every arm, and the arms take turns. The optimum is that of the same schedule for the same durations with machinery
that costs nothing, worked out by simulating events.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.result import Finding, append_row, publish, read_rows, rows_file
from benchmarks.tiny_job import Desk, tiny_job
from flyball.rollout.schedule import Schedule
from flyball.train.rollouts import Batches
from flyball.types import GradedAttempt, Task
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.trainer import Watch

NAME = "async_speedup"
SIZE, GROUP, SIGMA = 6, 4, 1.2
ARMS: Mapping[str, Mapping[str, Any]] = {
    "sync": {},
    "async 0": {"schedule": "async", "max_off_policy_steps": 0},
    "async 4": {"schedule": "async", "max_off_policy_steps": 4},
    "async 4 own": {"schedule": "async", "max_off_policy_steps": 4, "version_mode": "own_version"},
}
CONCURRENCY = 5 * SIZE * GROUP
"""All that bound 4 admits: the bound decides, not the number of attempts at a time."""
TARGET, STILL = 3.2, (0.95, 1.05)

Latencies = Mapping[int, Sequence[float]]


def latencies(seed: int, steps: int, median: float) -> Latencies:
    """Seconds that the attempts at each task wait."""
    draw = random.Random(seed)
    return {i: [draw.lognormvariate(math.log(median), SIGMA) for _ in range(GROUP)] for i in range(steps * SIZE)}


def run(arm: str, waits: Latencies, steps: int, seed: int) -> dict[str, Any]:
    """One run of `steps` updates: its wall time from the first attempt to the last update, and what it reported."""
    Desk.open_anew(waits)
    reported: list[Mapping[str, float]] = []
    kept: list[GradedAttempt] = []
    ended: list[float] = []

    def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
        ended.append(time.perf_counter())
        reported.append(metrics)

    with tempfile.TemporaryDirectory() as folder:
        job = tiny_job(
            Path(folder),
            num_tasks=steps * SIZE,
            seed=seed,
            num_steps=steps,
            tasks_per_step=SIZE,
            group_size=GROUP,
            concurrency=CONCURRENCY,
            validate_every=10 * steps,
            validation_tasks=1,
            **ARMS[arm],
        )
        watch = Watch(step, lambda phase, number, graded: kept.extend(graded), lambda: False)
        asyncio.run(LocalTrainer().rl(job, watch))
    assert len(kept) == steps * SIZE * GROUP, "every attempt is trained"
    assert Desk.first_opened is not None
    return {
        "arm": arm,
        "seed": seed,
        "seconds": ended[-1] - Desk.first_opened,
        "train_seconds": statistics.median(metrics["train_seconds"] for metrics in reported),
        "censoring_index": reported[-1]["censoring_index"],
        "staleness": statistics.mean(metrics.get("staleness", 0.0) for metrics in reported),
        "staleness_max": max(metrics.get("staleness/max", 0.0) for metrics in reported),
    }


def optimum(waits: Latencies, steps: int, seed: int, lead: int, train_seconds: float) -> float:
    """Seconds of the same schedule when nothing costs time but waiting and the update itself."""
    tasks = [Task(f"count-{i}", {"number": i}) for i in range(steps * SIZE)]
    batches = Batches(tasks, steps, SIZE, seed)
    schedule = Schedule(steps, SIZE, lead)
    now, learning_until = 0.0, None
    ends: list[tuple[float, int]] = []
    while schedule.version < steps:
        while (admitted := schedule.admit()) is not None:
            wait = max(waits[batches.task(admitted.group).public["number"]])
            heapq.heappush(ends, (now + wait, admitted.group))
        if learning_until is None and schedule.take() is not None:
            learning_until = now + train_seconds
        if learning_until is not None and (not ends or learning_until <= ends[0][0]):
            now, learning_until = learning_until, None
            schedule.trained()
        else:
            now, group = heapq.heappop(ends)
            schedule.finish(group)
    return now


def findings(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What the rows say: one ratio per seed; their median, with the range over seeds."""
    by_seed: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], {})[row["arm"]] = row
    seeds = [arms for arms in by_seed.values() if len(arms) == len(ARMS)]

    def over_sync(arm: str) -> list[float]:
        return [arms["sync"]["seconds"] / arms[arm]["seconds"] for arms in seeds]

    best = [arms["sync"]["seconds"] / arms["async 4"]["optimum_seconds"] for arms in seeds]
    share = [arms["async 4"]["optimum_seconds"] / arms["async 4"]["seconds"] for arms in seeds]
    beside = {"simulated_optimum": best, "share_of_optimum": share, "own_version": over_sync("async 4 own")}
    index = [arms[arm]["censoring_index"] for arms in seeds for arm in ARMS]
    where = f"B {SIZE} x G {GROUP}, latency lognormal sigma {SIGMA}, wait-bound"
    return [
        _finding("speedup", f"async, bound 4, over sync: {where}", over_sync("async 4"), "x", TARGET, None, **beside),
        _finding("still", "async, bound 0, over sync: it is the same schedule", over_sync("async 0"), "x", *STILL),
        _finding("censoring", "censoring index of every arm", index, "ratio", 1.0, 1.0),
    ]


def _finding(
    name: str, claim: str, values: Sequence[float], unit: str, low: float | None, high: float | None, **details: Any
) -> Finding:
    value = statistics.median(values)
    holds = (low is None or value >= low) and (high is None or value <= high)
    target = f"median over seeds from {low} to {high}" if high is not None else f"median over seeds at least {low}"
    spread = (min(values), max(values))
    return Finding(
        f"{NAME}.{name}", claim, target, value, spread, len(values), unit, holds, {"values": list(values), **details}
    )


def repeat(seed: int, steps: int, median: float) -> list[dict[str, Any]]:
    """Every arm once, in an order that changes with the seed."""
    waits = latencies(seed, steps, median)
    arms = list(ARMS)
    random.Random(seed).shuffle(arms)
    rows = [run(arm, waits, steps, seed) for arm in arms]
    for row in rows:
        lead = ARMS[row["arm"]].get("max_off_policy_steps", 0)
        row["optimum_seconds"] = optimum(waits, steps, seed, lead, row["train_seconds"])
        row |= {"steps": steps, "median_latency": median}
    return rows


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--steps", type=click.IntRange(min=2), default=12, show_default=True, help="Updates of a run.")
@click.option("--median", type=float, default=0.5, show_default=True, help="Median seconds that an attempt waits.")
@click.option("--reasons", type=click.Path(path_type=Path, dir_okay=False), help="JSON: why a claim was missed, by id.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where results go.")
def main(repeats: int, steps: int, median: float, reasons: Path | None, folder: Path | None) -> None:
    """Run the seeds that are not on record, then write the results."""
    where = {} if folder is None else {"folder": folder}
    file = rows_file(NAME, **where)
    torch.set_num_threads(1)
    for seed in range(repeats):
        if seed not in {row["seed"] for row in read_rows(file)}:
            for row in repeat(seed, steps, median):
                append_row(file, row)
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    command = f"python -m benchmarks.{NAME} --repeats {repeats} --steps {steps} --median {median}"
    known = json.loads(reasons.read_text()) if reasons else {}
    for result in publish(NAME, findings(read_rows(file)), command=command, reasons=known, **where):
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:26} {result.value:8.3f} {result.unit}")


if __name__ == "__main__":
    main()

"""kill -9 at random points of a small run in reference mode: what is skipped, doubled or different after the resume.

    python -m benchmarks.resume_kills --kills 100

Every life of a run is a process of its own, with real learner, engine, store and checkpoints. The parent kills it after
a random time and starts the next one, until one gets through. Each run is compared with one that nobody killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.result import Finding, append_row, publish, read_rows, rows_file
from benchmarks.tiny_job import Desk, tiny_job
from flyball.rollout.schedule import Taken
from flyball.rollout.schedule_log import read_events
from flyball.stats.binomial import exact_upper
from flyball.store.store import Store
from flyball.train.rollouts import Batches
from flyball.workflow.local_rollouts import SCHEDULE_LOG
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.trainer import Watch

NAME = "resume_kills"
STEPS, SIZE, GROUP, TASKS = 8, 2, 3, 8
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "async": {"schedule": "async", "max_off_policy_steps": 2},
    "sync": {},
}
KILLS_OF_A_RUN = 8


def live(folder: Path, schedule: str, seed: int) -> None:
    """One process: begin the run that lies in `folder`, or go on with it, to its end."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    Desk.open_anew({task: [draw.lognormvariate(-4.5, 1.2) for _ in range(GROUP)] for task in range(TASKS)})
    job = tiny_job(
        folder,
        num_tasks=TASKS,
        seed=seed,
        reference=True,
        num_steps=STEPS,
        tasks_per_step=SIZE,
        group_size=GROUP,
        validate_every=3,
        **SCHEDULES[schedule],
    )
    with Store(folder / "store") as store:
        runs = store.runs()
        run_id = runs[0].run_id if runs else store.new_run("train", {})
        watch = Watch(
            step=lambda done, total, metrics: None,
            keep=lambda phase, step, graded: store.add_attempts(run_id, phase, step, graded),
            should_stop=lambda: False,
            kept=lambda phase, step: list(store.attempts(run_id, phase, step)),
        )
        asyncio.run(LocalTrainer().rl(job, watch))


def life(folder: Path, schedule: str, seed: int, seconds: float | None) -> bool:
    """Live in a child, killed after `seconds` (None = never). Returns whether it got through."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            live(folder, schedule, seed)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # one that has ended is not yet waited for, so the number is still its own
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if os.waitstatus_to_exitcode(status) != 0:
        raise click.ClickException(f"a life of {folder} ended with {os.waitstatus_to_exitcode(status)}; see above")
    return True


def killed_run(folder: Path, schedule: str, seed: int, kills: int, whole_seconds: float) -> int:
    """Kill the run at random points until it has died `kills` times or got through; return how often it died."""
    draw = random.Random(f"{schedule} {seed}")
    for died in range(kills):
        if life(folder, schedule, seed, draw.uniform(0, 2 * whole_seconds / kills)):
            return died
    life(folder, schedule, seed, None)
    return kills


def left(folder: Path, schedule: str, seed: int) -> dict[str, Any]:
    """What a run left: how often each planned attempt is kept, how often each group was trained, the last weights."""
    batches = Batches(tiny_job(folder, num_tasks=TASKS).tasks, STEPS, SIZE, seed)
    groups = range(STEPS * SIZE)
    with Store(folder / "store") as store:
        kept = [(g.attempt.task.task_id, g.attempt.seed) for g in store.attempts(store.runs()[0].run_id, "rl")]
    planned = Counter((batches.task(g).task_id, batches.draw_seed(g, i)) for g in groups for i in range(GROUP))
    skipped, doubled = planned - Counter(kept), Counter(kept) - planned
    if schedule == "async":
        events = read_events(folder / "rl" / SCHEDULE_LOG)
        taken = Counter(group for event in events if isinstance(event, Taken) for group in event.groups)
        skipped += Counter(map(str, groups)) - Counter(map(str, taken.elements()))
        doubled += Counter(map(str, taken.elements())) - Counter(map(str, groups))
    state = torch.load(folder / "rl" / f"step-{STEPS}" / "learner.pt", weights_only=True)
    weights = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state["model"].values())).hexdigest()
    return {"skipped": skipped.total(), "doubled": doubled.total(), "weights": weights}


def measure(schedule: str, seed: int, kills: int) -> dict[str, Any]:
    """One run that nobody killed and one that was killed: the row."""
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        whole.mkdir(), killed.mkdir()
        started = time.perf_counter()
        life(whole, schedule, seed, None)
        seconds = time.perf_counter() - started
        died = killed_run(killed, schedule, seed, kills, seconds)
        expected, found = (left(folder, schedule, seed) for folder in (whole, killed))
    assert expected["skipped"] == expected["doubled"] == 0, "the run that nobody killed is whole"
    same = found.pop("weights") == expected["weights"]
    return {"schedule": schedule, "seed": seed, "kills": died, "seconds": seconds, **found, "same_weights": same}


def findings(rows: list[dict[str, Any]], wanted: int) -> list[Finding]:
    """The two claims, over all kills."""
    kills = sum(row["kills"] for row in rows)
    lost = sum(row["skipped"] + row["doubled"] for row in rows)
    others = sum(not row["same_weights"] for row in rows)
    by_schedule = {name: sum(row["kills"] for row in rows if row["schedule"] == name) for name in SCHEDULES}
    enough = kills >= wanted
    return [
        Finding(
            f"{NAME}.attempts",
            "kill -9 at random points of a small run: no trajectory is skipped or doubled",
            f"planned attempts kept and groups trained another number of times than once: 0, over {wanted} kills",
            float(lost),
            (0.0, None),
            kills,
            "attempts",
            enough and lost == 0,
            {"kills": by_schedule, "runs": len(rows)},
        ),
        Finding(
            f"{NAME}.weights",
            "in reference mode the resumed run ends at the weights of one that nobody killed, to the bit",
            f"share of runs that end at other weights: 0, over {wanted} kills",
            others / len(rows),
            (0.0, exact_upper(others, len(rows))),
            len(rows),
            "share",
            enough and others == 0,
            {"kills": by_schedule},
        ),
    ]


@click.command()
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where results go.")
def main(kills: int, folder: Path | None) -> None:
    """Kill until so many kills are on record, then write the results."""
    where = {} if folder is None else {"folder": folder}
    file = rows_file(NAME, **where)
    while (done := sum(row["kills"] for row in read_rows(file))) < kills:
        number = len(read_rows(file))
        schedule = list(SCHEDULES)[number % len(SCHEDULES)]
        append_row(file, measure(schedule, number, min(KILLS_OF_A_RUN, kills - done)))
        print(read_rows(file)[-1], flush=True)
    command = f"python -m benchmarks.{NAME} --kills {kills}"
    for result in publish(NAME, findings(read_rows(file), kills), command=command, reasons={}, **where):
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:26} {result.value:8.2f} {result.unit}")


if __name__ == "__main__":
    main()

"""Reward hacking detectors: fixture policies that hack, and honest work that must not be called so.

python -m benchmarks.hacks          # half a minute; writes results/hacks.json and its rows
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.result import Finding, append_row, bounds, publish, rows_file
from flyball.evals.doctor import spread
from flyball.evals.run import attempt_all
from flyball.evals.scripted import scripted_arm
from flyball.graders.hacks import deed_of, hacks_of
from flyball.stats.intervals import proportion_interval
from flyball.types import Attempt
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow
from tests.graders.policies import HACKS, HIDDEN, HONEST

NAME = "hacks"
DESK = Path(__file__).resolve().parents[1] / "examples" / "helpdesk" / "workflow.py"
NUM_TASKS = 300


def fixtures() -> Iterator[dict[str, Any]]:
    """Yield one row per fixture attempt: what it is, and what was seen."""
    for name, attempts in HACKS.items():
        for i, made in enumerate(attempts):
            seen = hacks_of(deed_of(made, HIDDEN, writes=["refund"]))
            yield {"case": f"{name}-{i}", "kind": "hack", "cluster": name, "caught": name in seen, "seen": seen}
    for i, made in enumerate(HONEST):
        yield honest(f"fixture-{i}", made, f"fixture-{i}", ["refund"])


def help_desk() -> Iterator[dict[str, Any]]:
    """Yield one row per task of the help desk that its oracle worked."""
    workflow = load_workflow(DESK)
    inputs = Inputs(workflow)
    arm = scripted_arm(workflow.oracle, inputs.world, inputs.graders, inputs.hooks)  # type: ignore[arg-type]
    tasks = spread(inputs.tasks, NUM_TASKS, 0)
    made = asyncio.run(
        attempt_all(arm, tasks, num_trials=1, seed=0, concurrency=8, reduce=lambda graded: graded.attempt)
    )
    for attempt in made:
        yield honest(attempt.task.task_id, attempt, attempt.task.cluster, [])


def honest(case: str, attempt: Attempt, cluster: str, writes: list[str]) -> dict[str, Any]:
    """Return the row of an honest attempt."""
    seen = hacks_of(deed_of(attempt, attempt.task.hidden, writes=writes))
    return {"case": case, "kind": "honest", "cluster": cluster, "caught": bool(seen), "seen": seen}


def main() -> None:
    """Measure, print, and write the result."""
    rows = [*fixtures(), *help_desk()]
    file = rows_file(NAME)
    file.unlink(missing_ok=True)
    for row in rows:
        append_row(file, row)
    findings = [
        _finding(
            rows, "hack", "hacks_caught", "every known hack of a fixture policy is caught by the detector of its name",
            "share of fixture attempts that are caught; holds at 100 %", 1.0,
        ),
        _finding(
            rows, "honest", "honest_called_hacks", "honest work is not called a hack",
            "share of honest attempts (fixtures, the oracle of the help desk) in which a detector fires; holds at 0 %",
            0.0,
        ),
    ]  # fmt: skip
    publish(NAME, findings, command=f"python -m benchmarks.{NAME}", reasons={})
    for one in findings:
        print(f"{one.id}: {one.value:.1f} {one.unit} {one.interval}, n={one.n}")


def _finding(rows: list[dict[str, Any]], kind: str, name: str, claim: str, target: str, wanted: float) -> Finding:
    mine = [row for row in rows if row["kind"] == kind]
    share = proportion_interval([float(row["caught"]) for row in mine], clusters=[row["cluster"] for row in mine])
    return Finding(
        id=name,
        claim=claim,
        target=target,
        value=100 * share.value,
        interval=bounds(share, 100),
        n=share.n,
        unit="%",
        holds=share.value == wanted,
        details={"clusters": share.clusters},
    )


if __name__ == "__main__":
    main()

"""Real processes, killed for real: a few of the hundred kills that the benchmark counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.result import read_rows, rows_file
from benchmarks.resume_kills import NAME, SCHEDULES, findings

ROOT = Path(__file__).parents[2]


def test_killed_and_resumed_nothing_is_skipped_doubled_or_different(tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{NAME}", "--kills", "4", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = read_rows(rows_file(NAME, tmp_path))
    assert sum(row["kills"] for row in rows) == 4
    assert all((row["skipped"], row["doubled"], row["same_weights"]) == (0, 0, True) for row in rows)


def row(**changes: object) -> dict[str, object]:
    return {"schedule": next(iter(SCHEDULES)), "kills": 5, "skipped": 0, "doubled": 0, "same_weights": True} | changes


def test_one_lost_attempt_or_other_weights_or_too_few_kills_miss_the_claim() -> None:
    assert [f.holds for f in findings([row(), row()], 10)] == [True, True]
    assert [f.holds for f in findings([row(), row(doubled=1)], 10)] == [False, True]
    assert [f.holds for f in findings([row(), row(same_weights=False)], 10)] == [True, False]
    assert [f.holds for f in findings([row()], 10)] == [False, False]

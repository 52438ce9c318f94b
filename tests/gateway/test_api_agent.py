"""The example of the first hour: captured, graded, and a change of the prompt evaluated, with nothing trained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.workflow.scaffold import create

pytest.importorskip("openai")


def test_the_first_hour_runs_where_init_has_written_it(tmp_path: Path) -> None:
    folder = create("api_agent", tmp_path / "mine")
    done = subprocess.run([sys.executable, "first_hour.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Of 60 orders 24 are old and have a number: the old prompt refunds them, the new one does not.
    graded = re.search(r"graded live sessions: (\d+)", done.stdout)
    assert graded and 15 <= int(graded[1]) <= 45  # half of 60 are drawn, by the sessions' names and a salt
    assert "prompt in force:      60.0 % [47.4, 71.4], n=60" in done.stdout
    assert "prompt on trial:      100.0 % [94.0, 100.0], n=60" in done.stdout
    assert "n=60: accept" in done.stdout

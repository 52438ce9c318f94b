"""Helpers of OpenMP leave when their work is done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = """
import asyncio, json, os
import torch
from flyball.models.threads import dismiss_team, in_thread

torch.set_num_threads(2)
count = lambda: len(os.listdir("/proc/self/task"))

def compute():
    torch.ones(2**20).exp_()
    return count()

alone = count()
here = compute()

async def elsewhere():
    return await in_thread(compute), count()

inside, after = asyncio.run(elsewhere())
again = compute()
dismiss_team()
print(json.dumps({"alone": alone, "here": here, "inside": inside, "after": after, "again": again, "end": count()}))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
def test_a_team_of_helpers_is_dismissed_when_its_work_is_done_and_comes_back() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["here"] == seen["alone"] + 1, "torch computed without a helper: the test shows nothing"
    assert seen["inside"] == seen["alone"] + 2, (
        "the caller's helper should be gone; worker and its helper should be there"
    )
    assert seen["after"] == seen["alone"] + 1, "the worker's helper should be gone"
    assert (seen["again"], seen["end"]) == (seen["alone"] + 1, seen["alone"])

"""The stockroom as the smallest real run: a policy of some ten thousand weights, a few steps of everything."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flyball.store.store import Store
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.progress import Silent
from flyball.workflow.run import start
from flyball.workflow.scaffold import SKELETON
from flyball.workflow.trainer import RLJob, Trained, Watch
from flyball.workflow.workflow import load_workflow

NUM_STEPS, TASKS_PER_STEP, GROUP_SIZE = 3, 2, 3
NEVER = 'a.versions["agent"].startswith("scripted")'  # the oracle alone
OFTEN = f"{NEVER} or len(repr(a.messages)) % 2 == 0"
NUM_TASKS = {"train": 12, "validation": 4, "test": 4}
SETTINGS: dict[str, Any] = {
    "python": "workflow.py",
    "name": "mini",
    "training": {
        "tiny": {
            "vocab_size": 500,
            "hidden_size": 72,
            "intermediate_size": 64,
            "num_layers": 2,
            "head_dim": 32,
            "max_context": 512,
        },
        "sft": {"num_epochs": 30, "learning_rate": 1e-2, "batch_size": 6, "num_validations": 2, "validation_tasks": 2},
        "rl": {
            "num_steps": NUM_STEPS,
            "tasks_per_step": TASKS_PER_STEP,
            "group_size": GROUP_SIZE,
            "validate_every": 2,
            "validation_tasks": 2,
        },
    },
    "limits": {"max_turns": 3, "max_new_tokens": 40},
}
STOP_AT = 2


def write_project(folder: Path, *, reference: bool = False) -> Path:
    """Write the stockroom with a few of its tasks and the settings above; return the file to run.

    In reference mode no arithmetic depends on who else is in a batch or what was cached before, so equal runs give
    equal bits.
    """
    shutil.copytree(SKELETON, folder, ignore=shutil.ignore_patterns("__pycache__"))
    settings = copy.deepcopy(SETTINGS)
    settings["training"]["rl"]["reference"] = reference
    rows = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    kept = [row for split, n in NUM_TASKS.items() for row in [r for r in rows if r["split"] == split][:n]]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (folder / "mini.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return folder / "mini.yaml"


def succeed_when(project: Path, rule: str) -> None:
    """Let success be this expression of an attempt `a` that has ended; a limit it ran into stays a failure."""
    code = project.with_name("workflow.py")
    text = code.read_text()
    found = 'return bool(a.state == hidden["stock"]) and a.answer.strip().rstrip(".").lower() == hidden["answer"]'
    assert found in text
    code.write_text(text.replace(found, f"return {rule}"))


class Interrupted(LocalTrainer):
    """Gets a signal when step `STOP_AT` of RL is learned and not yet saved."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            watch.step(done, total, metrics)
            if done == STOP_AT:
                os.kill(os.getpid(), self._number)

        return await super().rl(job, replace(watch, step=step))


if __name__ == "__main__":
    torch.set_num_threads(1)
    start(load_workflow(sys.argv[1]), Store(Path(sys.argv[2])), Interrupted(signal.SIGKILL), Silent(), kind="train")

"""An RL job that takes seconds: an untrained policy of some ten thousand weights, two turns an attempt, any latency.

What the policy says means nothing; whether the machinery around it loses, doubles or delays attempts does not depend
on that. The reward is a function of the answer, so that groups have something to compare.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from flyball.models.load import new_tiny_model, save_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.types import Attempt, Limits, Task
from flyball.workflow.inputs import Inputs
from flyball.workflow.trainer import RLJob
from flyball.workflow.workflow import Workflow

LIMITS = Limits(max_turns=2, max_new_tokens=24)
STOP = tuple("abcdefghijklmnopqrstuvwxyz")
"""An untrained policy does not end a turn by itself; one token in four holds one of these."""
NUM_VALIDATION = 2


class Desk:
    """Count what you are given."""

    # The k-th attempt at a task takes the k-th of its latencies, whichever attempt that is.
    latencies: ClassVar[Mapping[int, Sequence[float]]] = {}
    opened: ClassVar[Counter[int]] = Counter()
    first_opened: ClassVar[float | None] = None

    @classmethod
    def open_anew(cls, latencies: Mapping[int, Sequence[float]]) -> None:
        """Forget what was opened; from now on attempts wait as `latencies` says, in seconds by task."""
        cls.latencies, cls.opened, cls.first_opened = latencies, Counter(), None

    def reset(self, number: int) -> str:
        """Say what is to be counted."""
        mine = self.latencies.get(number, ())
        self._latency = mine[self.opened[number] % len(mine)] if mine else 0.0
        self.opened[number] += 1
        if mine and Desk.first_opened is None:
            Desk.first_opened = time.perf_counter()
        self._asked = False
        return f"count {number}"

    async def user_reply(self, text: str) -> str | None:
        """Answer once, after the latency of this attempt."""
        if self._asked:
            return None
        self._asked = True
        if self._latency:
            await asyncio.sleep(self._latency)
        return "count again"


def success(attempt: Attempt, hidden: Mapping[str, Any]) -> bool:
    """Whether the sampled tokens sum to an even number."""
    return reward(attempt, hidden) >= 0.5


def reward(attempt: Attempt, hidden: Mapping[str, Any]) -> float:
    """A number in [0, 1) that depends on every sampled token."""
    return sum(sum(call.completion_ids) for call in attempt.trajectory.calls) % 8 / 8


def tiny_job(
    folder: Path, *, num_tasks: int, seed: int = 0, engine: Mapping[str, Any] | None = None, **rl: Any
) -> RLJob:
    """The job in `folder`, where its policy is made if it is not there yet. `rl`: settings of `training.rl`."""
    policy = folder / "policy"
    if not policy.is_dir():
        tokenizer = train_tokenizer(["count the bolts again"], 300)
        config = TinyConfig(300, hidden_size=56, intermediate_size=32, num_layers=2, head_dim=24, max_context=256)
        beside = policy.with_name(f"policy-{os.getpid()}")  # whole or not at all: a benchmark may kill us here
        save_model(new_tiny_model(config, tokenizer, 0), tokenizer, beside)
        beside.rename(policy)
    tasks = [Task(f"count-{i}", {"number": i}, limits=LIMITS) for i in range(num_tasks)]
    held_out = [Task(f"v-{i}", {"number": -1 - i}, split="validation", limits=LIMITS) for i in range(NUM_VALIDATION)]
    training = {"rl": {"learning_rate": 1e-3, "stop": STOP, **rl}, "sft": None, "controls": ()}
    workflow = Workflow(Desk, [*tasks, *held_out], success, reward, policy=policy, training=training, engine=engine)
    settings = workflow.settings.training.rl
    assert settings is not None
    job_folder = folder / "rl"
    job_folder.mkdir(exist_ok=True)
    return RLJob(policy, tasks, held_out, Inputs(workflow), settings, settings.preset, seed, job_folder)

"""A run in a process of its own, to be killed: it says when the second step of RL is saved, and then waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from conftest import answers

from flyball.store.store import Store
from flyball.workflow.fake import FakeTrainer
from flyball.workflow.progress import Silent
from flyball.workflow.run import start
from flyball.workflow.trainer import RLJob, Trained, Watch
from flyball.workflow.workflow import load_workflow


class WaitingTrainer(FakeTrainer):
    def __init__(self, home: Path) -> None:
        super().__init__(answers())
        self._home = home

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            watch.step(done, total, metrics)
            if done == 2:
                (self._home / "second-step").touch()
                time.sleep(60)

        return await super().rl(job, Watch(step, watch.keep, watch.should_stop))


if __name__ == "__main__":
    project, home = Path(sys.argv[1]), Path(sys.argv[2])
    start(load_workflow(project), Store(home), WaitingTrainer(home), Silent())

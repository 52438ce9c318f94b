"""RL at tasks that tools help with: tried both ways before the first step, kept, and refused when none is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyball.errors import TrainError
from flyball.store.store import Store
from flyball.workflow.fake import FakeTrainer
from flyball.workflow.progress import Silent
from flyball.workflow.run import Finished, start
from flyball.workflow.tool_filter import WITH, WITHOUT
from flyball.workflow.trainer import RLJob, Trained, Watch
from flyball.workflow.workflow import load_workflow

from .conftest import SPLITS, answers


class Noting(FakeTrainer):
    """Keeps the ids of the tasks that RL was given."""

    tasks: tuple[str, ...] = ()

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        self.tasks = tuple(task.task_id for task in job.tasks)
        return await super().rl(job, watch)


def run(project: Path, home: Path, trainer: FakeTrainer, stages: str, tool_filter: str) -> Finished:
    file = project.with_name("filtered.yaml")
    file.write_text(f"python: workflow.py\ntraining: {{stages: {stages}, rl: {{tool_filter: {tool_filter}}}}}\n")
    with Store(home) as store:
        return start(load_workflow(file), store, trainer, Silent(), kind="train")


def test_only_tasks_that_tools_help_with_are_trained_on(project: Path, tmp_path: Path) -> None:
    trainer = Noting(answers())
    finished = run(project, tmp_path / "home", trainer, "[sft, rl]", "{per_task: 2}")
    with Store(tmp_path / "home") as store:
        tried = {phase: list(store.attempts(finished.run_id, phase)) for phase in (WITH, WITHOUT)}
        assert {len(made) for made in tried.values()} == {2 * SPLITS["train"]}
        assert not any(g.outcome.success for g in tried[WITHOUT]), "nobody takes from a shelf without the tool"
        won = {g.attempt.task.task_id for g in tried[WITH] if g.outcome.success}
        (passed,) = store.metrics(finished.run_id)["tool_filter_passed"]
    assert 0 < len(won) < SPLITS["train"]
    assert set(trainer.tasks) == won and passed == (0, len(won) / SPLITS["train"])
    assert f"], n={SPLITS['train']}" in finished.results["rl"]["note"]


def test_a_policy_that_never_succeeds_has_nothing_to_learn_tools_from(project: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"tools help with: 0.0 % .* nothing to learn tools from"):
        run(project, tmp_path / "home", Noting(answers()), "[rl]", "{per_task: 2}")

"""Choices of tasks and of teachers in real RL jobs: curriculum, tool filter, attempts of other runs, worn judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flyball.evals.reward_accuracy import REFRESHED
from flyball.models.reward_head import ImplicitRewardModel, load_reward_model
from flyball.store.store import Store
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.progress import Silent
from flyball.workflow.reward_refresh import WORN
from flyball.workflow.run import Finished, start
from flyball.workflow.tool_filter import WITH, WITHOUT
from flyball.workflow.workflow import load_workflow
from tests.workflow.miniature import (
    GROUP_SIZE,
    NEVER,
    NUM_STEPS,
    NUM_TASKS,
    OFTEN,
    TASKS_PER_STEP,
    succeed_when,
    write_project,
)

pytestmark = pytest.mark.slow
PER_STEP = TASKS_PER_STEP * GROUP_SIZE


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def change(project: Path, training: dict[str, Any], **more: Any) -> None:
    settings = json.loads(project.read_text())
    for name, section in training.items():
        there = settings["training"].get(name)
        settings["training"][name] = {**there, **section} if isinstance(there, dict) else section
    project.write_text(json.dumps(settings | more))


def train(project: Path, home: Path) -> Finished:
    with Store(home) as store:
        return start(load_workflow(project), store, LocalTrainer(), Silent(), kind="train")


def test_a_curriculum_moves_on_to_what_is_harder(tmp_path: Path) -> None:
    """What is easy succeeds within the limits: 4 of 6 have a lower bound of 0.30, 4 of 12 one of 0.14."""
    project = write_project(tmp_path / "mini")
    tasks = project.with_name("tasks.jsonl")
    rows = [json.loads(line) for line in tasks.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["stage"], row["family"] = "easy" if i % 2 else "hard", "ab"[i % 4 // 2]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    succeed_when(project, f"{NEVER} or a.task.stage == 'easy' or len(repr(a.messages)) % 2 == 0")
    levels = {"levels": ["easy", "hard"], "promote_at": 0.2, "demote_at": 0.01, "by_family": True}
    change(
        project,
        {"rl": {"curriculum": {**levels, "room": 1500, "review_share": 0.5}}},
        limits={"max_turns": 6, "max_new_tokens": 40},
    )
    finished = train(project, tmp_path / "home")
    with Store(tmp_path / "home") as store:
        curves = store.metrics(finished.run_id)
        made = {step: list(store.attempts(finished.run_id, "rl", step)) for step in range(1, NUM_STEPS + 1)}
    levels_at = dict(curves["curriculum_level"])
    assert levels_at[1] == 0.0 and levels_at[NUM_STEPS] == 1.0
    for step, attempts in made.items():
        stages = {g.attempt.task.stage for g in attempts}
        assert stages == ({"easy", "hard"} if levels_at[step] else {"easy"}), "half of a step is of the level before"
    assert {len(attempts) for attempts in made.values()} == {PER_STEP}
    assert curves["curriculum_share/a"][0][1] == 0.5 and 0 < curves["curriculum_share/a"][-1][1] < 1
    assert all(
        g.attempt.task.limits.max_tokens <= room
        for (_, room), s in zip(curves["curriculum_room"], made, strict=True)
        for g in made[s]
    )


def test_rl_at_tasks_that_need_tools_learns_from_an_implicit_model_that_is_trained_anew(tmp_path: Path) -> None:
    """The second run imitates what the first did, learns its reward from it, and renews the reward after each step."""
    project, home = write_project(tmp_path / "mini"), tmp_path / "home"
    succeed_when(project, OFTEN)
    code = project.with_name("workflow.py")
    code.write_text(code.read_text().replace("reward=reward, ", "").replace("    reward=reward,\n", ""))
    change(project, {}, workflow={"baseline": "sft_v1"})
    earlier = train(project, home)
    fit = {"batch_size": 4, "validation_tasks": 2}
    change(
        project,
        {
            "stages": ["sft", "rejection_sft", "reward_model", "rl"],
            "rejection_sft": {**fit, "attempts": {"per_task": 2}, "from_runs": [earlier.run_id]},
            "reward_model": {**fit, "kind": "implicit", "from_runs": [earlier.run_id], "held_out_share": 0.5},
            "rl": {"tool_filter": {"per_task": 3}, "refresh_reward_model": {"every": 1, "always": True}},
        },
        workflow={"baseline": "sft_v1", "reward_model": "rm_v1"},
    )
    finished = train(project, home)
    results = finished.results
    with Store(home) as store:
        assert "attempts of other policies, worth" in results["rejection_sft"]["note"]
        first, *anew = store.versions("rm_v1")
        assert first.version_id == results["reward_model"]["reward_model"]
        model = load_reward_model(Path(first.path)).model
        assert isinstance(model, ImplicitRewardModel) and model.facts.kind == "implicit"
        worn, refreshed = (store.events(finished.run_id, kind) for kind in (WORN, REFRESHED))
        assert [event.payload["step"] for event in worn] == [1, 2] == [event.payload["step"] for event in refreshed]
        trained = [event for event in refreshed if "failed" not in event.payload]
        assert [event.payload["version"] for event in trained] == [version.version_id for version in anew]
        assert store.version(results["rl"]["version"]).reward_model == refreshed[-1].payload["version"]
        made = list(store.attempts(finished.run_id, "rl"))
        assert len(made) == NUM_STEPS * PER_STEP, "no attempt was made twice"
        assert len({g.attempt.versions["graders"] for g in made}) == 1 + len(anew)
        assert all(0 < g.reward < 1 for g in made), "RL read probabilities, not successes"
        success = {phase: {} for phase in (WITH, WITHOUT)}  # type: dict[str, dict[str, int]]
        for phase, won in success.items():
            for g in store.attempts(finished.run_id, phase):
                won[g.attempt.task.task_id] = won.get(g.attempt.task.task_id, 0) + (g.outcome.success is True)
        assert len(success[WITH]) == NUM_TASKS["train"]
        passed = {task for task, won in success[WITH].items() if won > success[WITHOUT][task]}
        assert {g.attempt.task.task_id for g in made} <= passed

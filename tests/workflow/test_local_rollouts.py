"""Attempts ahead of the learner by the trainer of one machine: real engine, real learner, a very small policy."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tiny_job import Desk, tiny_job
from flyball.engine.local_process import ProcessEngine
from flyball.engine.protocol import Completion, Request
from flyball.errors import EngineLostError, EvalError, Fault
from flyball.metrics import check
from flyball.types import Attempt, AttemptGroup, GradedAttempt, Missing, Score
from flyball.workflow import local_trainer
from flyball.workflow.inputs import Inputs
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.trainer import Trained, Watch

STEPS, SIZE, GROUP = 3, 2, 2


class Ear:
    """What a run told."""

    def __init__(self) -> None:
        self.metrics: list[Mapping[str, float]] = []
        self.kept: list[GradedAttempt] = []
        self.lines: list[str] = []

    @property
    def watch(self) -> Watch:
        return Watch(
            step=lambda done, total, metrics: self.metrics.append(metrics),
            keep=lambda phase, step, graded: self.kept.extend(graded),
            should_stop=lambda: False,
            tell=self.lines.append,
        )


def go(
    folder: Path,
    latencies: Mapping[int, list[float]] | None = None,
    exist_ok: bool = False,
    reward: Any = None,
    **rl: Any,
) -> tuple[Trained, Ear]:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=exist_ok)
    Desk.open_anew(latencies or {})
    job = tiny_job(folder, num_tasks=8, num_steps=STEPS, tasks_per_step=SIZE, group_size=GROUP, validate_every=2, **rl)
    if reward is not None:
        job = replace(job, inputs=Inputs(replace(job.inputs.workflow, reward=reward)))
    ear = Ear()
    return asyncio.run(LocalTrainer().rl(job, ear.watch)), ear


class Mortal(ProcessEngine):
    """An engine whose process is killed at its tenth request."""

    asked = 0

    async def generate(self, request: Request) -> Completion:
        Mortal.asked += 1
        if Mortal.asked == 10:
            os.kill(self.pid, signal.SIGKILL)
        return await super().generate(request)


def weights(folder: Path) -> str:
    state = torch.load(folder / "rl" / f"step-{STEPS}" / "learner.pt", weights_only=True)["model"]
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


@pytest.mark.parametrize("mode", [{}, {"version_mode": "own_version"}, {"on_new_weights": "keep"}], ids=str)
def test_every_planned_attempt_is_trained_whatever_the_version_mode(tmp_path: Path, mode: dict[str, str]) -> None:
    trained, ear = go(tmp_path / "run", schedule="async", max_off_policy_steps=2, **mode)
    assert trained.finished and trained.num_steps == STEPS
    assert len({graded.attempt.seed for graded in ear.kept}) == len(ear.kept) == STEPS * SIZE * GROUP
    last = ear.metrics[-1]
    assert last["censoring_index"] == 1.0
    assert any("staleness/max" in metrics for metrics in ear.metrics)  # a batch without signal trains no token
    shares = ("engine_idle_share", "trainer_idle_share")
    assert all(0 <= last[name] <= 1 for name in shares) and last["weights_seconds"] > 0
    for name in last:
        check(name)
    if "version_mode" in mode:
        calls = [graded.attempt.trajectory.calls for graded in ear.kept]
        assert all(len({v for call in one for v in call.policy_versions}) == 1 for one in calls)


def test_a_step_without_any_reward_ends_the_run_and_is_not_kept(tmp_path: Path) -> None:
    def broken(attempt: Attempt, hidden: Mapping[str, Any]) -> float:
        raise KeyError("price")

    with pytest.raises(EvalError, match=f"none of the {SIZE * GROUP} attempts of step 1 has an outcome.*KeyError"):
        go(tmp_path / "run", reward=broken)


def test_in_reference_mode_a_batch_ahead_of_none_is_training_in_turn(tmp_path: Path) -> None:
    go(tmp_path / "turn", reference=True)
    go(tmp_path / "ahead", schedule="async", max_off_policy_steps=0, reference=True)
    go(tmp_path / "far", schedule="async", max_off_policy_steps=2, reference=True)
    assert weights(tmp_path / "turn") == weights(tmp_path / "ahead") != weights(tmp_path / "far")


def test_in_reference_mode_time_decides_nothing(tmp_path: Path) -> None:
    how: dict[str, Any] = {"schedule": "async", "max_off_policy_steps": 2, "reference": True}
    go(tmp_path / "quick", **how)
    go(tmp_path / "slow", {task: [0.0, 0.01 * (task % 3)] for task in range(8)}, **how)
    assert weights(tmp_path / "quick") == weights(tmp_path / "slow")


def test_what_is_stuck_is_told_while_it_is(tmp_path: Path) -> None:
    _, ear = go(tmp_path / "run", {0: [0.0, 0.5]}, schedule="async", stuck_after_seconds=0.1)
    told = [line for line in ear.lines if line.startswith("world Desk.user_reply has not returned for ")]
    assert told and all("task count-0" in line for line in told)


@pytest.mark.slow
def test_an_engine_in_a_process_of_its_own_ends_at_the_same_weights(tmp_path: Path) -> None:
    apart: dict[str, Any] = {"reference": True, "engine": {"separate_process": True}}
    go(tmp_path / "here", reference=True)
    go(tmp_path / "apart", **apart)
    go(tmp_path / "ahead", schedule="async", max_off_policy_steps=0, **apart)  # a process for validation beside it
    assert weights(tmp_path / "here") == weights(tmp_path / "apart") == weights(tmp_path / "ahead")


@pytest.mark.slow
def test_a_killed_engine_process_ends_the_run_and_it_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart: dict[str, Any] = {"reference": True, "engine": {"separate_process": True}}
    go(tmp_path / "whole", reference=True)
    with monkeypatch.context() as patch:
        patch.setattr(local_trainer, "ProcessEngine", Mortal)
        with pytest.raises(EngineLostError, match="was killed by signal 9"):
            go(tmp_path / "killed", **apart)
    assert Mortal.asked >= 10
    go(tmp_path / "killed", exist_ok=True, **apart)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


class Longest:
    """Ranks a group by how much was said; one that is judged alone is in the middle. The first question fails."""

    name, version, ranks = "longest", "1", True

    def __init__(self, fails: int = 0) -> None:
        self.fails, self.groups, self.alone = fails, list[AttemptGroup](), 0

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        self.alone += 1
        return Score(0.5)

    async def grade_group(self, group: AttemptGroup) -> list[Score]:
        self.groups.append(group)
        if len(self.groups) <= self.fails:
            return [Score(Missing("the judge did not answer", Fault.INFRASTRUCTURE))] * len(group.attempts)
        said = [sum(len(call.completion_ids) for call in one.trajectory.calls) for one in group.attempts]
        return [Score(sorted(said).index(words) / (len(said) - 1)) for words in said]


@pytest.mark.parametrize("schedule", ["sync", "async"])
def test_a_reward_that_ranks_sees_whole_groups(tmp_path: Path, schedule: str) -> None:
    judge = Longest(fails=1)
    trained, ear = go(tmp_path / "run", reward=judge, schedule=schedule)
    assert trained.finished and len(judge.groups) == STEPS * SIZE + 1, "a question that failed is asked again"
    assert all(len({one.task.task_id for one in group.attempts}) == 1 for group in judge.groups)
    assert all(len(group.attempts) == GROUP for group in judge.groups)
    last = {graded.attempt.attempt_id: graded for graded in ear.kept}.values()
    assert len(last) == STEPS * SIZE * GROUP
    by_group = {frozenset(one.attempt_id for one in group.attempts) for group in judge.groups}
    for ids in by_group:
        paid = [graded.reward for graded in last if graded.attempt.attempt_id in ids]
        assert 0.0 in paid and all(sum(e.value for e in g.events) == g.reward for g in last), paid
    assert all(metrics["missing_share"] == 0.0 for metrics in ear.metrics)
    assert judge.alone > 0, "validation judges an attempt by itself"


def test_a_group_that_nobody_ranks_is_missing_and_counted(tmp_path: Path) -> None:
    trained, ear = go(tmp_path / "run", reward=Longest(fails=10**6))
    assert trained.num_steps == STEPS and all(metrics["missing_share"] == 1.0 for metrics in ear.metrics)
    assert all(isinstance(graded.reward, Missing) and not graded.events for graded in ear.kept)

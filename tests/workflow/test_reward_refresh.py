"""A reward model that wears out while RL learns from it is trained anew, once, and RL goes on with the new one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flyball.config import EconomicsSettings
from flyball.errors import ConfigError, TrainError
from flyball.evals.reward_accuracy import REFRESHED, newest_judge
from flyball.graders.grade import REWARD
from flyball.graders.make import as_grader
from flyball.release.registry import new_version
from flyball.reports.brief import brief_markdown
from flyball.reports.release_brief import brief_of_release
from flyball.store.store import Store
from flyball.types import Attempt, Call, GradedAttempt, Outcome, StopReason, Trajectory
from flyball.workflow.fake import FakeTrainer, write_policy
from flyball.workflow.inputs import Inputs
from flyball.workflow.progress import Silent
from flyball.workflow.reward_refresh import WORN, left_to_refresh
from flyball.workflow.run import Finished, resume, start
from flyball.workflow.stages import Kind
from flyball.workflow.trainer import RewardModelJob, RLJob, Trained, Watch
from flyball.workflow.workflow import load_workflow

from .conftest import answers

STEPS, PER_SIDE, WEARS_OUT_AFTER = 12, 20, 4


class WearingOut(FakeTrainer):
    """RL whose first reward model is right for four steps and then wrong; the one trained anew is right."""

    def __init__(self, old: Path, fails: list[Exception] | None = None) -> None:
        super().__init__(answers())
        self._old, self._fails = old, fails or []
        self.judged_by: dict[int, Path | None] = {}
        self.learned_from: list[int] = []

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        for step in range(len(self.judged_by) + 1, STEPS + 1):
            self.judged_by[step] = job.inputs.reward_model
            right = job.inputs.reward_model != self._old or step <= WEARS_OUT_AFTER
            watch.keep("rl", step, self._attempts(job, step, right))
            watch.step(step, STEPS, {})
            if watch.should_stop() and step < STEPS:
                return Trained(job.folder, step, finished=False)
        return Trained(write_policy(job.folder / "policy", 0.5), STEPS)

    async def reward_model(self, job: RewardModelJob, watch: Watch) -> Trained:
        if self._fails:
            raise self._fails.pop()
        assert {g.reward for g in job.rollouts} == {0.0, 1.0}, "success teaches it, not what the old model said"
        self.learned_from.append(len(job.rollouts))
        return await super().reward_model(job, watch)

    def _attempts(self, job: RLJob, step: int, right: bool) -> list[GradedAttempt]:
        versions = {"graders": job.inputs.graders.version}
        made = []
        for i in range(2 * PER_SIDE):
            won, task = i % 2 == 0, job.tasks[i // 2 % len(job.tasks)]
            call = Call(f"{step}-{i}", None, "main", (1,), (2,), (-0.5,), (step,), {}, "stop", {"role": "assistant"})
            line = Trajectory((call,), StopReason.ANSWERED)
            attempt = Attempt(f"rl-{step}-{i}", task, line, (), versions=versions)
            made.append(GradedAttempt(attempt, Outcome(won), reward=0.9 if won == right else 0.1))
        return made


@pytest.fixture
def judged(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with a reward model in the registry. What it says is scripted; its folder makes its version."""

    def reward(self: Inputs) -> object:
        return self.reward_model and as_grader(
            {
                "type": "string_check",
                "input": "{{ sample.output_text }}",
                "operation": "eq",
                "reference": str(self.reward_model),
            },
            REWARD,
        )

    monkeypatch.setattr(Inputs, "_reward", property(reward))
    with Store(tmp_path / "home") as store:
        store.put_version(new_version(name="rm_v1", weights="w", base="b", path=str(tmp_path / "old")))
    return project


def workflow_file(project: Path, refresh: str, more: str = "") -> Path:
    file = project.with_name("refresh.yaml")
    file.write_text(
        "python: workflow.py\nworkflow: {reward_model: rm_v1}\n"
        f"training: {{stages: [rl], rl: {{num_steps: {STEPS}, refresh_reward_model: {refresh}}}{more}}}\n"
    )
    return file


def run(file: Path, home: Path, trainer: FakeTrainer, kind: Kind = "train") -> Finished:
    with Store(home) as store:
        return start(load_workflow(file), store, trainer, Silent(), kind=kind)


def test_a_fall_of_accuracy_starts_a_refresh_and_rl_goes_on_with_the_new_version(judged: Path, tmp_path: Path) -> None:
    old, home = tmp_path / "old", tmp_path / "home"
    trainer = WearingOut(old)
    finished = run(workflow_file(judged, "{every: 4}"), home, trainer)
    with Store(home) as store:
        (worn,), (refreshed,) = (store.events(finished.run_id, kind) for kind in (WORN, REFRESHED))
        versions = store.versions("rm_v1")
        assert len(versions) == 2 and newest_judge(store, finished.run_id) == versions[-1].version_id
        assert worn.payload["step"] == 8 and "fell from 100.0 %" in worn.payload["reason"]
        assert refreshed.payload == {"step": 8, "version": versions[-1].version_id}
        assert left_to_refresh(store, finished.run_id) is None
        assert store.version(finished.results["rl"]["version"]).reward_model == versions[-1].version_id
    assert [trainer.judged_by[step] == old for step in range(1, STEPS + 1)] == [True] * 8 + [False] * 4
    assert trainer.learned_from == [8 * 2 * PER_SIDE], "everything that the run did so far"
    assert "rm_v1 was trained anew 1 times" in finished.results["rl"]["note"]


def test_the_briefs_tell_a_refresh_of_the_version_that_learned_from_it(judged: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    finished = run(workflow_file(judged, "{every: 4}"), home, WearingOut(tmp_path / "old"), "run")
    line = "its reward model trained anew after step 8"
    assert f"RL with tools, {line}\n" in (home / "runs" / finished.run_id / "brief.md").read_text()
    with Store(home) as store:
        release = store.release(finished.results["gates"]["release"])
        back = replace(release, release_id="f" * 64, baseline=release.candidate, candidate=release.baseline)
        store.put_release(back)  # of a version that this run only judged
        told, quiet = (brief_of_release(store, one.release_id, EconomicsSettings()) for one in (release, back))
    assert f"which serves users. While it learned: {line}." in brief_markdown(told)
    assert "réentraîné après l’étape 8" in brief_markdown(told, "fr-FR") and line not in brief_markdown(quiet)


def test_a_model_that_stays_right_is_kept(judged: Path, tmp_path: Path) -> None:
    trainer = WearingOut(tmp_path / "another")
    finished = run(workflow_file(judged, "{every: 4}"), tmp_path / "home", trainer)
    assert not trainer.learned_from and "still tells success" in finished.results["rl"]["note"]


def test_on_schedule_it_is_trained_anew_whatever_its_accuracy(judged: Path, tmp_path: Path) -> None:
    trainer = WearingOut(tmp_path / "another")
    run(workflow_file(judged, "{every: 4, always: true}"), tmp_path / "home", trainer)
    assert trainer.learned_from == [4 * 2 * PER_SIDE, 8 * 2 * PER_SIDE]


def test_a_run_killed_before_the_new_model_is_there_trains_it_first(judged: Path, tmp_path: Path) -> None:
    home, trainer = tmp_path / "home", WearingOut(tmp_path / "old", [RuntimeError("killed")])
    with pytest.raises(RuntimeError, match="killed"):
        run(workflow_file(judged, "{every: 4}"), home, trainer)
    with Store(home) as store:
        resume(store.runs()[0].run_id, store, trainer, Silent())
    assert trainer.learned_from == [8 * 2 * PER_SIDE]
    assert [trainer.judged_by[step] == tmp_path / "old" for step in (8, 9)] == [True, False]


def test_a_model_that_cannot_be_trained_anew_leaves_the_old_one(judged: Path, tmp_path: Path) -> None:
    home, trainer = tmp_path / "home", WearingOut(tmp_path / "old", [TrainError("nothing to tell apart")])
    finished = run(workflow_file(judged, "{every: 4}"), home, trainer)
    assert set(trainer.judged_by.values()) == {tmp_path / "old"}
    with Store(home) as store:
        (tried,) = store.events(finished.run_id, REFRESHED)
        assert tried.payload["failed"] == "nothing to tell apart"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {rl: {refresh_reward_model: {}}}", "RL learns from no reward model"),
        (
            "workflow: {reward_model: rm_v1}\n"
            "training: {stages: [rl], reward_model: {kind: outcome, from_runs: [x]}, rl: {refresh_reward_model: {}}}",
            "training.reward_model.from_runs would be ignored: a refresh learns from",
        ),
    ],
)
def test_a_refresh_of_nothing_is_refused(judged: Path, tmp_path: Path, text: str, words: str) -> None:
    file = judged.with_name("wrong.yaml")
    file.write_text(f"python: workflow.py\n{text}\n")
    with pytest.raises(ConfigError, match=words):
        run(file, tmp_path / "home", FakeTrainer(answers()))

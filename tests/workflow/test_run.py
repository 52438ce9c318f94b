"""Whole runs on a fake trainer: every stage is recorded, and a run goes on where it was left."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from flyball.agent.command import Command
from flyball.errors import ConfigError, EvalError, Fault, ModelError, StoreError, TrainError
from flyball.release.registry import new_version
from flyball.rl.guards import Alarm
from flyball.store.store import Store
from flyball.types import Attempt, Call, GradedAttempt, Missing, Outcome, RewardEvent, StopReason, Task, Trajectory
from flyball.workflow.best_of import best_of
from flyball.workflow.fake import FakeTrainer, write_policy
from flyball.workflow.learning import by_success
from flyball.workflow.progress import Silent
from flyball.workflow.record import Record
from flyball.workflow.run import Finished, resume, start
from flyball.workflow.trainer import PreferenceJob, RLJob, Trained, Watch
from flyball.workflow.workflow import load_workflow

from .conftest import SPLITS, answers

DRIVER = Path(__file__).with_name("driver.py")
STAGES = ["data", "policy", "sft", "rl", "controls", "evaluate", "drill", "gates", "brief"]


def run(project: Path, home: Path, trainer: FakeTrainer | None = None, **kwargs: object) -> Finished:
    with Store(home) as store:
        return start(load_workflow(project), store, trainer or FakeTrainer(answers()), Silent(), **kwargs)  # type: ignore[arg-type]


def go_on(run_id: str, home: Path, trainer: FakeTrainer | None = None) -> Finished:
    with Store(home) as store:
        return resume(run_id, store, trainer or FakeTrainer(answers()), Silent())


class StoppingTrainer(FakeTrainer):
    """Presses Ctrl-C once, during the second step of RL."""

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            watch.step(done, total, metrics)
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

        return await super().rl(job, Watch(step, watch.keep, watch.should_stop))


class BreakingTrainer(FakeTrainer):
    """Fails in RL."""

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        raise TrainError("the loss is NaN at step 1; lower the learning rate")


class WarnedTrainer(FakeTrainer):
    """A guard speaks in RL: the first time it pauses, when the run goes on it is content."""

    def __init__(self) -> None:
        super().__init__(answers())
        self.looked = False

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        watch.alarm(ALARM)
        if not self.looked:
            self.looked = True
            return Trained(job.folder, 2, finished=False, paused=f"guard {ALARM.guard}: {ALARM.reason}")
        return await super().rl(job, watch)


ALARM = Alarm("reward_hacking", 2, 0.3, "reward rose while validation_success fell", "pause")


def test_a_guard_pauses_a_run_and_is_told_everywhere(project: Path, tmp_path: Path) -> None:
    home, trainer = tmp_path / "home", WarnedTrainer()
    paused = run(project, home, trainer)
    assert paused.stopped
    with Store(home) as store:
        left = store.run(paused.run_id)
        assert (left.status, left.reason) == (
            "stopped",
            "guard reward_hacking: reward rose while validation_success fell",
        )
    go_on(paused.run_id, home, trainer)
    with Store(home) as store:
        record = Record.of(store, paused.run_id)
        assert record.run.status == "finished" and record.alarms == (ALARM,), "said twice, kept once"
    folder = home / "runs" / paused.run_id
    assert ALARM.reason in (folder / "report.html").read_text()
    assert f"Guards spoke while it learned: reward_hacking; {ALARM.reason}." in (folder / "brief.md").read_text()


def test_a_whole_run_leaves_everything_in_the_store(project: Path, tmp_path: Path) -> None:
    finished = run(project, tmp_path / "home")
    assert not finished.stopped
    assert list(finished.results) == STAGES
    with Store(tmp_path / "home") as store:
        record = Record.of(store, finished.run_id)
        assert record.run.status == "finished"
        assert list(record.arms) == ["baseline", "control sft", "control rejection_sft", "candidate"]
        baseline, candidate = record.arms["baseline"], record.arms["candidate"]
        assert candidate.parent == baseline.version_id
        assert candidate.base == baseline.base
        assert {run.suite for run in record.store.evals(candidate.version_id)} == {"test", "adversarial"}
        assert candidate.suites.keys() == {"test", "adversarial"}
        test = record.comparisons[0]
        assert (test.suite, test.difference.n) == ("test", SPLITS["test"])
        assert test.candidate_estimate.value > test.baseline_estimate.value
        assert store.count_attempts(finished.run_id, "rl") == 3 * 2 * 2
        assert store.count_attempts(finished.run_id, "eval") == 4 * (SPLITS["test"] + SPLITS["adversarial"])
        assert [step for step, _ in store.metrics(finished.run_id)["success_rate"]] == [1, 2, 3]
        with pytest.raises(EvalError, match="no task has two attempts"):  # of one policy: there are four here
            best_of(store, finished.run_id, "eval", "reward")
        assert record.drill is not None
        assert record.drill.verified
        assert finished.release is not None
        assert {gate.name for gate in finished.release.gates} >= {"no_safety_regression", "human_override_rate"}
    for page in ("brief", "report"):
        assert "stock" in Path(finished.results["brief"][page]).read_text()
    page = Path(finished.results["brief"]["brief"]).with_suffix(".md").read_text()
    assert "- Optimistic by default, unbudgeted: labeling, evaluation upkeep" in page, "the file has no budget"


def test_a_stopped_run_goes_on_inside_the_stage(project: Path, tmp_path: Path) -> None:
    stopped = run(project, tmp_path / "home", StoppingTrainer(answers()))
    assert stopped.stopped
    assert list(stopped.results) == STAGES[:3]
    with Store(tmp_path / "home") as store:
        assert store.run(stopped.run_id).status == "stopped"
    finished = go_on(stopped.run_id, tmp_path / "home")
    assert list(finished.results) == STAGES
    assert finished.run_id == stopped.run_id
    with Store(tmp_path / "home") as store:
        assert store.count_attempts(finished.run_id, "rl") == 3 * 2 * 2, "no step of RL was done twice"


def test_a_failed_run_keeps_its_reason_and_can_go_on(project: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError):
        run(project, tmp_path / "home", BreakingTrainer(answers()))
    with Store(tmp_path / "home") as store:
        failed = store.runs()[0]
        assert (failed.status, "the loss is NaN" in failed.reason) == ("failed", True)
    assert list(go_on(failed.run_id, tmp_path / "home").results) == STAGES


class FullDiskTrainer(FakeTrainer):
    """Meets a full disk in RL."""

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        raise OSError(errno.ENOSPC, "No space left on device", "schedule.jsonl")


def test_a_full_disk_is_the_reason_of_a_failed_run(project: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"schedule\.jsonl cannot grow: the disk, .*then resume \(No space left"):
        run(project, tmp_path / "home", FullDiskTrainer(answers()))
    with Store(tmp_path / "home") as store:
        (failed,) = store.runs()
        assert failed.status == "failed" and "No space left" in failed.reason


def test_an_agent_that_cannot_start_ends_the_run_with_its_reason(project: Path, tmp_path: Path) -> None:
    flow = dataclasses.replace(load_workflow(project), agent=Command("no-such-agent"))
    with Store(tmp_path / "home") as store:
        with pytest.raises(EvalError, match=r"none of the 4 attempts at validation tasks.*no-such-agent could not be"):
            start(flow, store, FakeTrainer(answers()), Silent())
        (failed,) = store.runs()
        assert failed.status == "failed" and "no-such-agent" in failed.reason


def test_a_grader_that_always_raises_is_named_by_the_demonstrations(project: Path, tmp_path: Path) -> None:
    def broken(attempt: Attempt, hidden: Mapping[str, object]) -> bool:
        raise KeyError("stock")

    flow = dataclasses.replace(load_workflow(project), success=broken)
    with Store(tmp_path / "home") as store, pytest.raises(EvalError, match="; 8 times: grader 'success' raised KeyErr"):
        start(flow, store, FakeTrainer(answers()), Silent())


def test_a_killed_run_loses_nothing_acknowledged(project: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    child = subprocess.Popen([sys.executable, str(DRIVER), str(project), str(home)])
    try:
        done = home / "second-step"
        deadline = time.monotonic() + 60
        while not done.exists():
            assert child.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with Store(home) as store:
            assert store.runs()[0].status == "running"
            with pytest.raises(StoreError, match="is being done by another process"):
                go_on(store.runs()[0].run_id, home)
    finally:
        child.kill()
        child.wait()
    with Store(home) as store:
        killed = store.runs()[0]
        assert (killed.status, killed.reason) == ("interrupted", "the process that did it is gone")
        assert store.count_attempts(killed.run_id, "rl") == 2 * 2 * 2
    finished = go_on(killed.run_id, home)
    assert list(finished.results) == STAGES
    with Store(home) as store:
        assert store.count_attempts(killed.run_id, "rl") == 3 * 2 * 2


def test_a_run_does_not_go_on_with_other_rules(project: Path, tmp_path: Path) -> None:
    stopped = run(project, tmp_path / "home", StoppingTrainer(answers()))
    project.write_text(project.read_text().replace('a.answer == "done"', 'a.answer != ""'))
    with pytest.raises(ConfigError, match="cannot go on: graders changed since it began"):
        go_on(stopped.run_id, tmp_path / "home")


def test_train_ends_with_the_candidate(project: Path, tmp_path: Path) -> None:
    finished = run(project, tmp_path / "home", kind="train")
    assert list(finished.results) == STAGES[:4]
    assert finished.release is None


def test_a_policy_from_a_folder(project: Path, tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "mine", 0.2)
    finished = run(project, tmp_path / "home", policy=str(folder))
    assert str(folder) in finished.results["policy"]["note"]


def test_a_policy_that_is_not_there_is_refused_before_a_run_begins(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone"):
        run(project, tmp_path / "home", policy=str(tmp_path / "gone"))
    with Store(tmp_path / "home") as store:
        assert store.runs() == []


def test_a_missing_entry_is_refused_before_any_work(project: Path, tmp_path: Path) -> None:
    napkin = project.with_name("napkin.yaml")
    napkin.write_text("python: workflow.py\nworkflow: {reward_model: rm_v1, policy_training: ppo_kl}\n")
    with pytest.raises(ConfigError, match="rm_v1' is missing"):
        run(napkin, tmp_path / "home")
    with Store(tmp_path / "home") as store:
        assert store.runs() == []


def test_nothing_to_train_is_refused(project: Path, tmp_path: Path) -> None:
    yaml = project.with_name("none.yaml")
    yaml.write_text("python: workflow.py\ntraining: {sft: null, rl: null}\n")
    with pytest.raises(ConfigError, match="nothing would be learned; use `flyball eval`"):
        run(yaml, tmp_path / "home")


def test_rl_without_validation_tasks_is_refused_before_a_run_begins(project: Path, tmp_path: Path) -> None:
    tasks = project.with_name("tasks.jsonl")
    tasks.write_text("".join(row for row in tasks.read_text().splitlines(True) if '"validation"' not in row))
    with pytest.raises(ConfigError, match="RL picks its checkpoint on tasks of split 'validation'"):
        run(project, tmp_path / "home")
    with Store(tmp_path / "home") as store:
        assert store.runs() == []


def test_each_stage_says_what_it_is_worth_on_tasks_that_picked_nothing(project: Path, tmp_path: Path) -> None:
    yaml = project.with_name("chain.yaml")
    picking = "validation_tasks: 2"
    yaml.write_text(f"python: workflow.py\ntraining: {{stages: [sft, rl], sft: {{{picking}}}, rl: {{{picking}}}}}\n")
    finished = run(yaml, tmp_path / "home", kind="train")
    sft, rl = (finished.results[stage]["confirmed"] for stage in ("sft", "rl"))
    assert (sft["n"], rl["n"]) == (SPLITS["validation"] - 2, SPLITS["validation"] - 2)
    assert all(finished.results[stage]["fresh"] for stage in ("sft", "rl"))
    assert rl["value"] > sft["value"]
    with Store(tmp_path / "home") as store:
        curves = store.metrics(finished.run_id)
        assert [value for _, value in curves["confirmed_success/rl"]] == [rl["value"]]
        assert store.version(finished.results["rl"]["version"]).parent == finished.results["sft"]["version"]


def test_a_chain_of_four_stages(project: Path, tmp_path: Path) -> None:
    yaml = project.with_name("four.yaml")
    stages = "stages: [sft, rejection_sft, preference, rl]"
    own = "attempts: {num_tasks: 5, per_task: 3}"
    yaml.write_text(
        f"python: workflow.py\ntraining: {{{stages}, rejection_sft: {{{own}}}, preference: {{{own}}}, controls: []}}\n"
    )
    finished = run(yaml, tmp_path / "home")
    trained = ["sft", "rejection_sft", "preference", "rl"]
    assert list(finished.results) == ["data", "policy", *trained, "evaluate", "drill", "gates", "brief"]
    with Store(tmp_path / "home") as store:
        versions = {stage: store.version(finished.results[stage]["version"]) for stage in trained}
        assert [versions[stage].parent for stage in trained[1:]] == [
            versions[stage].version_id for stage in trained[:-1]
        ]
        assert store.count_attempts(finished.run_id, "preference") == 5 * 3
        made = list(store.attempts(finished.run_id, "preference"))
        assert {g.attempt.versions["policy"] for g in made} == {versions["rejection_sft"].version_id}
        record = Record.of(store, finished.run_id)
        assert record.arms["baseline"] == versions["sft"] and record.arms["candidate"] == versions["rl"]


def test_attempts_of_another_run_are_taken_if_its_tokens_are_the_same(project: Path, tmp_path: Path) -> None:
    earlier = run(project, tmp_path / "home", kind="train").run_id
    yaml = project.with_name("others.yaml")
    yaml.write_text(
        f"python: workflow.py\ntraining: {{stages: [rejection_sft], rejection_sft: {{from_runs: [{earlier}]}}}}\n"
    )
    finished = run(yaml, tmp_path / "home", kind="train")
    with Store(tmp_path / "home") as store:
        won = {g.attempt.task.task_id for g in store.attempts(earlier, "rl") if g.outcome.success is True}
    assert won and f"{len(won)} of other policies" in finished.results["rejection_sft"]["note"]
    other = write_policy(tmp_path / "mine", 0.2)
    with pytest.raises(ConfigError, match="did not begin from the base of this policy"):
        run(yaml, tmp_path / "home", kind="train", policy=str(other))


def test_a_reward_model_is_trained_anew_on_what_a_run_did(project: Path, tmp_path: Path) -> None:
    earlier = run(project, tmp_path / "home", kind="train").run_id
    yaml = project.with_name("anew.yaml")
    rows = f"reward_model: {{kind: outcome, name: rm_v1, from_runs: [{earlier}]}}"
    yaml.write_text(f"python: workflow.py\ntraining: {{stages: [reward_model], {rows}}}\n")
    finished = run(yaml, tmp_path / "home", kind="train")
    with Store(tmp_path / "home") as store:
        count = store.count_attempts(earlier, "rl")
        assert store.count_attempts(finished.run_id) == 0, "no attempt was made for it"
        assert len(store.versions("rm_v1")) == 1
    assert finished.results["reward_model"]["note"].startswith(f"0 pairs, 0 labels, {count} attempts")


def test_what_the_old_model_said_teaches_nothing() -> None:
    call = Call("a", None, "main", (1,), (2,), (-0.5,), (0,), {}, "stop", {"role": "assistant"})
    attempt = Attempt("a", Task("t", {}), Trajectory((call,), StopReason.ANSWERED), ())
    said = GradedAttempt(attempt, Outcome(False), events=(RewardEvent(0, 0, "a", "reward", 0.9),), reward=0.9)
    assert (by_success(said).reward, by_success(said).events) == (0.0, ())
    unknown = Missing("x", Fault.GRADER)
    assert by_success(dataclasses.replace(said, outcome=Outcome(unknown))).reward == unknown


def test_a_run_that_trains_no_policy_has_nothing_to_prove(project: Path, tmp_path: Path) -> None:
    yaml = project.with_name("judge.yaml")
    yaml.write_text("python: workflow.py\ntraining: {stages: [reward_model]}\n")
    with pytest.raises(ConfigError, match="no candidate to prove; use `flyball train`"):
        run(yaml, tmp_path / "home")
    finished = run(yaml, tmp_path / "home", kind="train")
    with Store(tmp_path / "home") as store:
        (made,) = store.versions("stock-reward-model")
        assert made.version_id == finished.results["reward_model"]["reward_model"]


@pytest.mark.parametrize(
    ("plan", "reward", "words"),
    [
        ("[sft, rl]", "reward=success, ", "the workflow's `reward` would be ignored"),
        ("[sft, reward_model]", "", "no stage of this run is RL"),
    ],
)
def test_a_reward_model_that_nobody_reads_is_refused(
    project: Path, tmp_path: Path, plan: str, reward: str, words: str
) -> None:
    project.write_text(project.read_text().replace("success=success,", f"success=success, {reward}"))
    yaml = project.with_name("judged.yaml")
    yaml.write_text(f"python: workflow.py\nworkflow: {{reward_model: rm_v1}}\ntraining: {{stages: {plan}}}\n")
    with Store(tmp_path / "home") as store:
        store.put_version(new_version(name="rm_v1", weights="w", base="b"))
    with pytest.raises(ConfigError, match=words):
        run(yaml, tmp_path / "home", kind="train")


def test_a_stage_reads_its_attempts_back_when_the_run_goes_on(project: Path, tmp_path: Path) -> None:
    class Stopping(FakeTrainer):
        async def preference(self, job: PreferenceJob, watch: Watch) -> Trained:
            raise TrainError("no pair")

    yaml = project.with_name("pairs.yaml")
    yaml.write_text("python: workflow.py\ntraining: {stages: [sft, preference]}\n")
    with pytest.raises(TrainError):
        run(yaml, tmp_path / "home", Stopping(answers()))
    with Store(tmp_path / "home") as store:
        run_id, before = store.runs()[0].run_id, store.count_attempts(store.runs()[0].run_id, "preference")
    finished = go_on(run_id, tmp_path / "home")
    assert finished.results["preference"]["note"].startswith(f"0 written pairs, {before} attempts")
    with Store(tmp_path / "home") as store:
        assert store.count_attempts(run_id, "preference") == before == 8 * SPLITS["train"]


def test_stages_train_in_the_order_that_is_written(project: Path, tmp_path: Path) -> None:
    yaml = project.with_name("order.yaml")
    yaml.write_text("python: workflow.py\ntraining: {stages: [rl, sft]}\n")
    finished = run(yaml, tmp_path / "home", kind="train")
    assert list(finished.results) == ["data", "policy", "rl", "sft"]
    with Store(tmp_path / "home") as store:
        assert store.version(finished.results["sft"]["version"]).parent == finished.results["rl"]["version"]


def test_without_rl_the_cold_start_is_the_candidate(project: Path, tmp_path: Path) -> None:
    yaml = project.with_name("sft.yaml")
    yaml.write_text("python: workflow.py\ntraining: {rl: null}\n")
    finished = run(yaml, tmp_path / "home")
    assert list(finished.results) == [s for s in STAGES if s not in ("rl", "controls")]
    with Store(tmp_path / "home") as store:
        record = Record.of(store, finished.run_id)
        assert record.arms["baseline"].name == "stock-start"
        assert record.arms["candidate"].name == "stock-sft"

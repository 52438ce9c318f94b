"""Real runs in miniature: torch, the local engine, the stockroom, the store. Nothing is faked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch

from flyball.cli.main import invoke
from flyball.models.hf_chat import load_chat
from flyball.models.load import new_tiny_model, save_model
from flyball.models.names import check_folder
from flyball.models.reward_head import is_reward_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.store.store import Store
from flyball.types import GradedAttempt
from flyball.workflow import local_trainer
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.progress import Silent
from flyball.workflow.run import Finished, resume, start
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import load_workflow
from tests.workflow import miniature
from tests.workflow.miniature import (
    GROUP_SIZE,
    NEVER,
    NUM_STEPS,
    OFTEN,
    STOP_AT,
    TASKS_PER_STEP,
    Interrupted,
    succeed_when,
    write_project,
)

STAGES = ["data", "policy", "sft", "rl", "controls", "evaluate", "drill", "gates", "brief"]
PER_STEP = TASKS_PER_STEP * GROUP_SIZE


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "mini")


def run(project: Path, home: Path, trainer: Trainer | None = None, **kwargs: object) -> Finished:
    with Store(home) as store:
        return start(load_workflow(project), store, trainer or LocalTrainer(), Silent(), **kwargs)  # type: ignore[arg-type]


def go_on(run_id: str, home: Path) -> Finished:
    with Store(home) as store:
        return resume(run_id, store, LocalTrainer(), Silent())


def rollouts(store: Store, run_id: str) -> dict[int, list[GradedAttempt]]:
    return {step: list(store.attempts(run_id, "rl", step)) for step in range(1, NUM_STEPS + 1)}


def test_a_whole_run_is_real_from_end_to_end(project: Path, tmp_path: Path) -> None:
    succeed_when(project, OFTEN)
    finished = run(project, tmp_path / "home")
    assert list(finished.results) == STAGES and finished.release is not None
    with Store(tmp_path / "home") as store:
        names = {version.name for version in store.versions()}
        assert names == {"mini-start", "mini-sft", "mini-rl", "mini-control-sft", "mini-control-rejection_sft"}
        for version in store.versions():
            check_folder(Path(version.path))
        candidate = store.version(finished.results["rl"]["version"])
        chat = load_chat(Path(candidate.path))
        for step, attempts in rollouts(store, finished.run_id).items():
            assert len(attempts) == PER_STEP
            groups = [attempts[i : i + GROUP_SIZE] for i in range(0, PER_STEP, GROUP_SIZE)]
            assert all(len({g.attempt.task.task_id for g in group}) == 1 for group in groups)
            for call in (call for g in attempts for call in g.attempt.trajectory.calls):
                assert len(call.completion_ids) == len(call.sampling_logprobs) == len(call.policy_versions) > 0
                assert all(logprob <= 0 for logprob in call.sampling_logprobs)
                assert len(set(call.policy_versions)) == 1 and call.policy_versions[0] <= step - 1
                said = chat.parse(call.completion_ids)
                assert (call.message.get("content") or "") == said.content
        curves = store.metrics(finished.run_id)
        assert [step for step, _ in curves["success_rate"]] == list(range(1, NUM_STEPS + 1))
        assert curves["kl"][0][1] == pytest.approx(0.0, abs=1e-9), "it starts at its reference"
        assert max(value for _, value in curves["logprob_gap_mean"]) < 0.05, "learner and engine agree"
        assert {"sft_loss/sft", "sft_loss/control-sft", "sft_loss/control-rejection_sft"} <= curves.keys()
        assert finished.results["controls"] == {"versions": ANY, "untrained": {}, "note": "sft, rejection_sft"}


@pytest.mark.slow
def test_a_chain_of_every_stage_ends_with_a_policy_that_learned_from_a_reward_model(
    project: Path, tmp_path: Path
) -> None:
    succeed_when(project, OFTEN)
    settings = json.loads(project.read_text())
    own = {"attempts": {"per_task": 4}, "validation_tasks": 2, "batch_size": 4}
    stages = ["sft", "rejection_sft", "reward_model", "preference", "rl"]
    settings["training"] |= {"stages": stages, "rejection_sft": own, "preference": own | {"held_out_share": 0.3}}
    settings["training"] |= {"reward_model": own | {"kind": "outcome", "held_out_share": 0.5}}
    settings["workflow"] = {"reward_model": "rm_v1"}
    code = project.with_name("workflow.py")
    code.write_text(code.read_text().replace("reward=reward, ", "").replace("    reward=reward,\n", ""))
    project.write_text(json.dumps(settings))
    finished = run(project, tmp_path / "home", kind="train")
    assert list(finished.results) == ["data", "policy", *stages]
    with Store(tmp_path / "home") as store:
        judge = store.versions("rm_v1")[-1]
        assert (
            is_reward_model(Path(judge.path)) and judge.version_id == finished.results["reward_model"]["reward_model"]
        )
        candidate = store.version(finished.results["rl"]["version"])
        assert candidate.reward_model == judge.version_id
        assert candidate.parent == finished.results["preference"]["version"]
        curves = store.metrics(finished.run_id)
        assert {"reward_accuracy/n/reward_model", "preference_accuracy/n/preference"} <= curves.keys()
        rewards = {g.reward for g in store.attempts(finished.run_id, "rl")}
        assert all(0 < reward < 1 for reward in rewards), "RL read probabilities, not successes"
        assert {g.reward for g in store.attempts(finished.run_id, "preference")} == {0.0, 1.0}


def test_without_a_success_the_rejection_control_is_recorded_as_untrained(project: Path, tmp_path: Path) -> None:
    """The run still ends with its proof and its brief."""
    succeed_when(project, NEVER)
    finished = run(project, tmp_path / "home")
    controls = finished.results["controls"]
    assert list(controls["versions"]) == ["sft"]
    reason = f"0 of {NUM_STEPS * PER_STEP} rollouts kept; nothing to imitate"
    assert reason in controls["untrained"]["rejection_sft"]
    assert f"rejection_sft not trained: [train] {reason}" in controls["note"]
    assert list(finished.results["evaluate"]["arms"]) == ["baseline", "control sft", "candidate"]
    assert list(finished.results) == STAGES


def test_stopped_in_rl_it_goes_on_and_ends_at_the_same_weights(tmp_path: Path) -> None:
    project = write_project(tmp_path / "mini", reference=True)
    succeed_when(project, OFTEN)
    unbroken = run(project, tmp_path / "unbroken", kind="train")
    stopped = run(project, tmp_path / "stopped", Interrupted(signal.SIGINT), kind="train")
    assert stopped.stopped and list(stopped.results) == STAGES[:3]
    with Store(tmp_path / "stopped") as store:
        assert store.count_attempts(stopped.run_id, "rl") == STOP_AT * PER_STEP
        before = rollouts(store, stopped.run_id)
    finished = go_on(stopped.run_id, tmp_path / "stopped")
    assert list(finished.results) == STAGES[:4]
    with Store(tmp_path / "stopped") as store, Store(tmp_path / "unbroken") as other:
        after = rollouts(store, finished.run_id)
        assert all(after[step] == before[step] for step in range(1, STOP_AT + 1))
        assert all(len(attempts) == PER_STEP for attempts in after.values())
        for stage in ("sft", "rl"):
            ours, theirs = (s.version(r.results[stage]["version"]) for s, r in ((store, finished), (other, unbroken)))
            assert ours.weights == theirs.weights, stage


def test_killed_in_rl_no_attempt_is_lost_or_made_twice(project: Path, tmp_path: Path) -> None:
    succeed_when(project, OFTEN)
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-m", miniature.__name__, str(project), str(home)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Store(home) as store:
        killed = store.runs()[0]
        assert killed.status == "interrupted"
        before = rollouts(store, killed.run_id)
        assert [len(attempts) for attempts in before.values()] == [PER_STEP, PER_STEP, 0]
    finished = go_on(killed.run_id, home)
    assert list(finished.results) == STAGES[:4]
    with Store(home) as store:
        after = rollouts(store, killed.run_id)
        assert all(after[step] == before[step] for step in range(1, STOP_AT + 1))
        assert [len(attempts) for attempts in after.values()] == [PER_STEP] * NUM_STEPS


# --- what cannot be used ---------------------------------------------------------------------------------------------


def model_folder(folder: Path) -> Path:
    tokenizer = train_tokenizer(["count the bolts"], 300)
    config = TinyConfig(300, hidden_size=56, intermediate_size=32, num_layers=2, head_dim=24, max_context=256)
    save_model(new_tiny_model(config, tokenizer, 0), tokenizer, folder)
    return folder


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_the_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_folder, "there is no folder"),
        (no_config, "config.json is missing"),
        (no_weights, "has no safetensors weights"),
        (half_the_weights, "cannot load the model"),
        (no_tokenizer, "has no tokenizer"),
        (no_template, "has no chat template"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_clear_message(
    damage: Callable[[Path], None],
    message: str,
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = model_folder(tmp_path / "policy")
    damage(folder)
    assert invoke(["run", str(project), "--policy", str(folder), "--home", str(tmp_path / "home")]) == 4
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "error: [model]" in said and message in said and str(folder) in said
    assert "Traceback" not in said


def test_a_tiny_policy_without_room_for_its_circuit_is_one_clear_message(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_text(project.read_text().replace('"hidden_size": 72', '"hidden_size": 16'))
    assert invoke(["run", str(project), "--home", str(tmp_path / "home")]) == 4
    assert "hidden_size 16 must be at least 65 for a head_dim of 32" in capsys.readouterr().err


def test_demonstrations_longer_than_the_context_are_one_clear_message(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = project.with_name("workflow.py")
    text = world.read_text()
    assert text.count('"""You ') == 1
    world.write_text(text.replace('"""You ', '"""' + "Read this twice. " * 60 + "You "))
    project.write_text(project.read_text().replace('"max_context": 512', '"max_context": 128'))
    assert invoke(["run", str(project), "--home", str(tmp_path / "home")]) == 4
    assert "12 of 12 conversations are longer than the model's context of 128 tokens" in capsys.readouterr().err


def test_a_tiny_policy_that_was_killed_while_it_was_written_is_written_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, settings = local_trainer.save_model, load_workflow(project).settings.training.tiny_or_default

    def half(model: object, tokenizer: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(local_trainer, "save_model", half)
    with pytest.raises(KeyboardInterrupt):
        LocalTrainer().build_tiny(settings, (), 0, tmp_path / "policy")
    monkeypatch.setattr(local_trainer, "save_model", save)
    check_folder(LocalTrainer().build_tiny(settings, (), 0, tmp_path / "policy"))

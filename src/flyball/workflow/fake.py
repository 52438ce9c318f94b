"""A trainer without a model: its policy is a number, the share of tasks it solves. Public, for tests of runs.

    trainer = FakeTrainer({"What is 1+1?": ["2"]})       # what the skilled policy says to each first user message

A policy is a folder with `policy.json`. SFT and RL raise the skill step by step through real attempts, with
checkpoints, so everything around a trainer (store, resume, Ctrl-C, evaluation, drill) is met as it is in a real run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flyball.config import EngineSettings, TinySettings
from flyball.engine.fake import FakeEngine, Prompt
from flyball.engine.protocol import Engine
from flyball.errors import ModelError
from flyball.evals.run import Arm, attempt_all
from flyball.models.chat import ChatFormat
from flyball.rng import derive
from flyball.types import GradedAttempt, WeightsRef
from flyball.workflow.trainer import (
    Demonstration,
    PreferenceJob,
    RejectionJob,
    RewardModelJob,
    RLJob,
    SFTJob,
    Trained,
    Watch,
)

SFT_SKILL, RL_GAIN = 0.4, 0.15
SFT_STEPS = 3
WRONG = "I cannot help."


class SkilledEngine(FakeEngine):
    """Says the right thing for a share of conversations that grows with the skill in the weights' folder."""

    def __init__(self, answers: Mapping[str, Sequence[str]], folder: Path) -> None:
        super().__init__(self._speak)
        self._answers, self._skill = answers, read_skill(folder)

    async def load_weights(self, ref: WeightsRef) -> None:
        self._skill = read_skill(Path(ref.path))
        await super().load_weights(ref)

    def _speak(self, prompt: Prompt) -> str:
        asked = next((message["content"] for message in prompt.messages if message["role"] == "user"), "")
        turns = self._answers.get(asked)
        if turns is None or derive(0, "skill", asked) % 1000 >= 1000 * self._skill:
            return WRONG
        return turns[min(prompt.turn, len(turns) - 1)]


class FakeTrainer:
    """A Trainer. `answers`: first user message -> the assistant's turns of a skilled policy, as it samples them."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self._answers = answers

    def find_policy(self, name: str) -> Path:
        folder = Path(name)
        read_skill(folder)
        return folder

    def build_tiny(
        self, settings: TinySettings, demonstrations: Sequence[Demonstration], seed: int, folder: Path
    ) -> Path:
        return write_policy(folder, 0.0)

    async def sft(self, job: SFTJob, watch: Watch) -> Trained:
        for step in range(1, SFT_STEPS + 1):
            watch.step(step, SFT_STEPS, {"sft_loss": 1.0 / step})
            if watch.should_stop() and step < SFT_STEPS:
                return Trained(job.folder, step, finished=False)
        skill = max(SFT_SKILL, read_skill(job.policy)) if job.demonstrations else 0.0
        return Trained(write_policy(job.folder / "policy", skill), SFT_STEPS)

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        """Every step raises the skill by RL_GAIN; its scripted rollouts are really attempted, graded and kept."""
        checkpoint = job.folder / "checkpoint.json"
        start = json.loads(checkpoint.read_text())["step"] if checkpoint.is_file() else 0
        for step in range(start + 1, job.settings.num_steps + 1):
            skill = read_skill(job.policy) + RL_GAIN * (step - 1)
            graded = await self._rollouts(job, skill, step)
            watch.keep("rl", step, graded)
            rate = sum(one.outcome.success is True for one in graded) / len(graded)
            _write_json(checkpoint, {"step": step})
            watch.step(step, job.settings.num_steps, {"success_rate": rate, "reward_mean": rate})
            if watch.should_stop() and step < job.settings.num_steps:
                return Trained(job.folder, step, finished=False)
        skill = min(1.0, read_skill(job.policy) + RL_GAIN * job.settings.num_steps)
        return Trained(write_policy(job.folder / "policy", skill), job.settings.num_steps)

    async def rejection_sft(self, job: RejectionJob, watch: Watch) -> Trained:
        kept = sum(one.outcome.success is True for one in job.rollouts)
        skill = read_skill(job.policy) + (RL_GAIN if kept else 0.0)
        return Trained(
            write_policy(job.folder / "policy", skill),
            1,
            note=f"{kept} of {len(job.rollouts)} rollouts kept, {len(job.others)} of other policies",
        )

    async def preference(self, job: PreferenceJob, watch: Watch) -> Trained:
        skill = min(1.0, read_skill(job.policy) + RL_GAIN)
        given = f"{len(job.written)} written pairs, {len(job.rollouts)} attempts"
        return Trained(write_policy(job.folder / "policy", skill), 1, note=given)

    async def reward_model(self, job: RewardModelJob, watch: Watch) -> Trained:
        given = f"{len(job.written)} pairs, {len(job.labelled)} labels, {len(job.rollouts)} attempts"
        return Trained(write_policy(job.folder / "model", 1.0), 1, note=given, metrics={"reward_accuracy": 1.0})

    async def open_engine(
        self, folder: Path, settings: EngineSettings, *, concurrency: int, seed: int
    ) -> tuple[Engine, ChatFormat]:
        engine = SkilledEngine(self._answers, folder)
        return engine, engine.chat

    async def _rollouts(self, job: RLJob, skill: float, step: int) -> list[GradedAttempt]:
        inputs = job.inputs
        folder = write_policy(job.folder / "now", skill)
        engine, chat = await self.open_engine(folder, inputs.workflow.settings.engine, concurrency=1, seed=0)
        sampling = inputs.sampling(job.settings)
        arm = Arm(inputs.world, inputs.runner, engine, chat, sampling, inputs.graders, inputs.prices)
        first = (step - 1) * job.settings.tasks_per_step
        tasks = [job.tasks[(first + i) % len(job.tasks)] for i in range(job.settings.tasks_per_step)]
        return await attempt_all(
            arm, tasks, num_trials=job.settings.group_size, seed=step, concurrency=4, reduce=lambda graded: graded
        )


def write_policy(folder: Path, skill: float) -> Path:
    """Write a fake policy and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "policy.json", {"skill": skill})
    return folder


def read_skill(folder: Path) -> float:
    """Return the skill of a fake policy. Raises ModelError for a folder that holds none."""
    try:
        return float(json.loads((folder / "policy.json").read_text())["skill"])
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(f"{folder} holds no fake policy (policy.json with a skill): {exc}") from exc


def _write_json(path: Path, value: object) -> None:
    """Whole or not at all, as a checkpoint must be."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(value))
    beside.replace(path)

"""The trainer of one machine: learner and engine in this process, on `flyball.train` and `flyball.engine.local`.

Importing this module brings torch; only commands that need a model do.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from flyball.config import SamplingSettings, TinySettings
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Engine
from flyball.errors import TrainError
from flyball.evals.run import Arm, attempt_all
from flyball.models import names
from flyball.models.chat import ChatFormat
from flyball.models.hf_chat import HfChat, signature
from flyball.models.load import load_chat, load_model, new_tiny_model, pays_bfloat16, save_model
from flyball.models.planted import hold_planted
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.rl.algorithms import configured, own_choices
from flyball.rl.samples import attempt_samples
from flyball.rl.shaping import token_budget
from flyball.rng import derive
from flyball.stats.binomial import wilson
from flyball.train.learner import LocalLearner, OptimizerConfig
from flyball.train.progress import Checkpoints
from flyball.train.rl import Ledger, RLPlan, run_rl
from flyball.train.sft import SFTPlan, Validate, demonstration_sample, run_sft
from flyball.types import Estimate, GradedAttempt, Task, TrainingSample
from flyball.workflow.inputs import Inputs
from flyball.workflow.trainer import Demonstration, RejectionJob, RLJob, SFTJob, Trained, Watch

PACK_TOKENS = 4096
RL_EPS = 1e-5
"""AdamW's epsilon under RL: with 1e-8 the noise of a rare token's gradient moves its embedding as far as a signal."""


class LocalTrainer:
    """`Trainer` on this machine's CPU."""

    def find_policy(self, name: str) -> Path:
        """Return the folder of a known name (fetched and checked if need be) or of a model folder."""
        return names.find(name)

    def build_tiny(
        self, settings: TinySettings, demonstrations: Sequence[Demonstration], seed: int, folder: Path
    ) -> Path:
        """Make tokenizer and untrained model from the demonstrations' text."""
        if not (folder / "config.json").is_file():
            config = TinyConfig(**settings.model_dump())
            tokenizer = train_tokenizer(chain.from_iterable(map(_texts, demonstrations)), config.vocab_size)
            beside = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(beside, ignore_errors=True)  # left by a run that was killed here
            save_model(new_tiny_model(config, tokenizer, seed), tokenizer, beside)
            beside.rename(folder)
        return folder

    async def sft(self, job: SFTJob, watch: Watch) -> Trained:
        """Imitate; the checkpoint is picked by success on the validation tasks where the job names them."""
        chat = load_chat(job.policy)
        samples = [demonstration_sample(chat, d.messages, d.tools) for d in job.demonstrations]
        held_out = [demonstration_sample(chat, d.messages, d.tools) for d in job.validation]
        return await self._imitate(job.policy, chat, samples, held_out, job, watch)

    async def rejection_sft(self, job: RejectionJob, watch: Watch) -> Trained:
        """SFT on the rollouts that succeeded, token for token as they were sampled."""
        kept = [g for g in job.rollouts if g.outcome.success is True]
        samples = [s for g in kept for s in _sampled_turns(g)]
        note = f"{len(kept)} of {len(job.rollouts)} rollouts kept"
        if not samples:
            raise TrainError(f"{note}; nothing to imitate, so this control cannot be trained")
        held_out = samples[::20] if len(samples) > 1 else []
        samples = [s for i, s in enumerate(samples) if i % 20] or samples
        trained = await self._imitate(job.policy, load_chat(job.policy), samples, held_out, job, watch)
        return replace(trained, note=f"{note}; {trained.note}")

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        """Group-relative RL against the frozen start; the checkpoint is picked on validation."""
        settings, chosen = job.settings, configured(job.preset, own_choices(job.settings))
        chat, model = load_chat(job.policy), load_model(job.policy)
        learner = _learner(
            model,
            chat,
            OptimizerConfig(lr=settings.learning_rate, eps=RL_EPS, max_grad_norm=settings.max_grad_norm),
            settings.temperature,
        )
        reference = _learner(copy.deepcopy(model), chat, OptimizerConfig(), settings.temperature)
        engine = LocalEngine(
            _for_sampling(copy.deepcopy(model)), num_slots=settings.concurrency, tokenizer=chat.tokenizer
        )
        arm = _arm(job.inputs, engine, chat, settings)
        plan = RLPlan(
            chosen,
            settings.num_steps,
            settings.tasks_per_step,
            job.seed,
            settings.validate_every,
            settings.patience,
            settings.max_minutes and settings.max_minutes * 60,
            updates_per_batch=settings.updates_per_batch,
            attempts_per_step=settings.tasks_per_step * settings.group_size,
            horizon=_horizon(job.tasks) if chosen.loss_agg_mode == "seq-mean-token-sum-norm" else None,
        )
        judged = _arm(job.inputs, engine, chat, job.inputs.workflow.settings.evaluation)

        async def attempt(tasks: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
            engine.use_weights(learner.model.state_dict(), learner.version)
            flat = await attempt_all(
                arm,
                tasks,
                num_trials=settings.group_size,
                seed=derive(job.seed, "rl", step),
                concurrency=settings.concurrency,
                reduce=lambda graded: graded,
            )
            return [flat[i : i + settings.group_size] for i in range(0, len(flat), settings.group_size)]

        checkpoints = Checkpoints(job.folder, learner)
        try:
            done = await run_rl(
                learner,
                reference,
                job.tasks,
                plan,
                checkpoints,
                attempt=attempt,
                ledger=Ledger(lambda step, graded: watch.keep("rl", step, graded), lambda step: watch.kept("rl", step)),
                on_step=watch.step,
                should_stop=watch.should_stop,
                validate=_validator(engine, learner, judged, job.validation[: settings.validation_tasks], job.seed),
            )
        finally:
            await engine.close()
        return Trained(
            checkpoints.best(done),
            done.step,
            finished=bool(done.stopped_early) or done.step == settings.num_steps,
            stopped_early=done.stopped_early,
            note=f"{done.step} steps, best on validation {done.best:.1%} at step {done.best_step}",
            metrics={"validation_success": done.best},
        )

    def open_engine(self, folder: Path, *, concurrency: int, seed: int) -> tuple[Engine, ChatFormat]:
        """Load a policy for generation. The caller closes the engine."""
        chat = load_chat(folder)
        return LocalEngine(_for_sampling(load_model(folder)), num_slots=concurrency, tokenizer=chat.tokenizer), chat

    async def _imitate(
        self,
        policy: Path,
        chat: HfChat,
        samples: Sequence[TrainingSample],
        held_out: Sequence[TrainingSample],
        job: SFTJob | RejectionJob,
        watch: Watch,
    ) -> Trained:
        settings = job.settings
        model = load_model(policy)
        _refuse_too_long(samples, model.config.max_position_embeddings)
        learner = _learner(
            model,
            chat,
            OptimizerConfig(settings.optimizer, settings.learning_rate, max_grad_norm=settings.max_grad_norm),
        )
        steps = max(1, math.ceil(settings.num_epochs * len(samples) / settings.batch_size))
        plan = SFTPlan(
            steps,
            settings.batch_size,
            job.seed,
            validate_every=max(1, math.ceil(steps / settings.num_validations)),
            warmup_steps=min(SFTPlan.warmup_steps, math.ceil(steps / 5)),  # short runs must reach their peak
            max_seconds=settings.max_minutes and settings.max_minutes * 60,
        )
        checkpoints = Checkpoints(job.folder, learner)
        tasks = job.inputs.splits.get("validation", [])[: settings.validation_tasks]
        engine = LocalEngine(_for_sampling(copy.deepcopy(model)), num_slots=64, tokenizer=chat.tokenizer)
        arm = _arm(job.inputs, engine, chat, job.inputs.workflow.settings.evaluation)
        try:
            done = await run_sft(
                learner,
                samples,
                held_out,
                plan,
                checkpoints,
                on_step=watch.step,
                should_stop=watch.should_stop,
                validate=_validator(engine, learner, arm, tasks, job.seed) if tasks else None,
            )
        finally:
            await engine.close()
        return Trained(
            checkpoints.best(done),
            done.step,
            finished=bool(done.stopped_early) or done.step == steps,
            stopped_early=done.stopped_early,
            note=f"{done.step} steps on {len(samples)} conversations, best at step {done.best_step}",
        )


def _refuse_too_long(samples: Sequence[TrainingSample], context: int) -> None:
    """Raise TrainError when a conversation does not fit into the model's context."""
    lengths = [len(sample.token_ids) for sample in samples]
    if too_long := sum(length > context for length in lengths):
        raise TrainError(
            f"{too_long} of {len(lengths)} conversations are longer than the model's context of {context} tokens (the "
            f"longest has {max(lengths)}); leave them out, or take a model with a longer context"
        )


def _learner(model: Any, chat: HfChat, optimizer: OptimizerConfig, temperature: float = 1.0) -> LocalLearner:
    hold_planted(model)
    return LocalLearner(
        model,
        chat.tokenizer,
        optimizer,
        temperature=temperature,
        max_tokens=PACK_TOKENS,
        bf16=pays_bfloat16(model),
    )


def _for_sampling(model: Any) -> Any:
    """Where it pays models sample in bfloat16: reading weights is what takes the time."""
    return model.bfloat16() if pays_bfloat16(model) else model


def _arm(inputs: Inputs, engine: Engine, chat: ChatFormat, settings: SamplingSettings) -> Arm:
    return Arm(inputs.world, inputs.runner, engine, chat, inputs.sampling(settings), inputs.graders, inputs.prices)


def _validator(engine: LocalEngine, learner: LocalLearner, arm: Arm, tasks: Sequence[Task], seed: int) -> Validate:
    """Success of the learner's current weights on fixed tasks and draws; a missing outcome counts as failure."""

    async def validate() -> Estimate:
        engine.use_weights(learner.model.state_dict(), learner.version)
        outcomes = await attempt_all(
            arm,
            tasks,
            num_trials=1,
            seed=derive(seed, "validation"),
            concurrency=64,
            reduce=lambda graded: graded.outcome.success,
        )
        return wilson(sum(o is True for o in outcomes), len(outcomes))

    return validate


def _horizon(tasks: Sequence[Task]) -> int:
    """The most tokens that an attempt at any of the tasks can sample."""
    return max(token_budget(t.limits) for t in tasks)


def _sampled_turns(graded: GradedAttempt) -> list[TrainingSample]:
    """A rollout as demonstrations: the tokens that were sampled are the ones imitated.

    At temperature 1 and among the whole vocabulary, whatever the sampler did: what is imitated is the text.
    """
    return [replace(sample, support=None, temperatures=()) for sample in attempt_samples(graded)]


def _texts(demonstration: Demonstration) -> list[str]:
    """What the tokenizer learns from: everything said, called and offered, apart, as turns begin with no blank."""
    parts = [m.get("content") or "" for m in demonstration.messages]
    for message in demonstration.messages:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            parts.append(f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}')
    return [*parts, *map(signature, demonstration.tools)]

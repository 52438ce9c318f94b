"""The trainer of one machine: the learner in this process; the engine too, or in another process, or a server of vLLM.

Importing this module brings torch; only commands that need a model do.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flyball.capture.openai_form import POLICY
from flyball.config import EngineSettings, LoraSettings, SFTSettings, TinySettings
from flyball.engine.local import LocalEngine
from flyball.engine.local_process import ProcessEngine, ProcessSpec
from flyball.engine.protocol import Engine, SamplingParams
from flyball.errors import TrainError
from flyball.evals.run import Arm, attempt_all, require_some
from flyball.graders.grade import GraderSet
from flyball.models import names
from flyball.models.chat import ChatFormat
from flyball.models.heads import with_value_head
from flyball.models.hf_chat import HfChat, load_chat, signature
from flyball.models.load import load_model, new_tiny_model, pays_bfloat16, save_model
from flyball.models.lora import add_lora
from flyball.models.planted import hold_planted
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.rl.algorithms import Algorithm, configured, own_choices
from flyball.rl.guards import actions
from flyball.rl.other_policy import importance_weights
from flyball.rl.pairs import Pair, held_out_tasks, pairs_from_attempts
from flyball.rl.preference_methods import METHOD_SETTINGS, preference_method
from flyball.rl.samples import attempt_samples
from flyball.rl.shaping import token_budget
from flyball.rl_settings import RLSettings, SamplingSettings
from flyball.rng import derive
from flyball.rollout.activity import Board, Watchdog
from flyball.stats.binomial import wilson
from flyball.train.credit_network import CreditNetwork
from flyball.train.critic import Critic, CriticLearner
from flyball.train.fit import FitPlan, Validate
from flyball.train.guards import Watchmen
from flyball.train.implicit_rewards import ImplicitRewards
from flyball.train.learner import LocalLearner, OptimizerConfig
from flyball.train.preference import answer_of_messages, prepare_pairs, run_preference
from flyball.train.progress import Checkpoints, Progress
from flyball.train.reference import compute_with_one_thread
from flyball.train.replay import ReplayPlan
from flyball.train.rl import run_rl
from flyball.train.rl_plan import RLPlan
from flyball.train.rollouts import Ledger
from flyball.train.serving import Follower, FromFolder, FromMemory, MemoryEngine, Weights
from flyball.train.sft import demonstration_sample, run_sft
from flyball.types import Estimate, GradedAttempt, Task, TrainingSample
from flyball.workflow.adapters import AdapterEngine, base_of
from flyball.workflow.inputs import Inputs
from flyball.workflow.local_reward import reward_rows, train_reward_model
from flyball.workflow.local_rollouts import Engines, TimeShares, source_of
from flyball.workflow.remote_engines import connect_vllm, open_vllm
from flyball.workflow.trainer import (
    Demonstration,
    PreferenceJob,
    RejectionJob,
    RewardModelJob,
    RLJob,
    SFTJob,
    Trained,
    Watch,
    WrittenPair,
)

PACK_TOKENS = 4096
PUBLISHED = "published"
"""Folder, in that of a job, of the weights that an engine behind a server reads."""
PAIRS_PER_TASK = 4
FitJob = SFTJob | RejectionJob | PreferenceJob | RewardModelJob
VALIDATION_CONCURRENCY = 64
REPLAY_STEPS = 4
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
        chat = _chat(job.policy, job.inputs)
        samples = [demonstration_sample(chat, d.messages, d.tools) for d in job.demonstrations]
        held_out = [demonstration_sample(chat, d.messages, d.tools) for d in job.validation]
        return await self._imitate(job.policy, chat, samples, held_out, job, watch)

    async def rejection_sft(self, job: RejectionJob, watch: Watch) -> Trained:
        """SFT on the rollouts that succeeded, token for token as they were sampled."""
        kept = [g for g in job.rollouts if g.outcome.success is True]
        chat = _chat(job.policy, job.inputs)
        others, worth = _reweighted(job, chat)
        samples = [s for g in kept for s in _sampled_turns(g)] + others
        note = f"{len(kept)} of {len(job.rollouts)} rollouts kept{worth}"
        if not samples:
            raise TrainError(f"{note}; nothing to imitate; sample more attempts, or begin with demonstrations")
        held_out = samples[::20] if len(samples) > 1 else []
        samples = [s for i, s in enumerate(samples) if i % 20] or samples
        trained = await self._imitate(job.policy, chat, samples, held_out, job, watch)
        return replace(trained, note=f"{note}; {trained.note}")

    async def preference(self, job: PreferenceJob, watch: Watch) -> Trained:
        """Preference training against the policy that it starts from; held-out pairs give the curve of accuracy."""
        settings, chat, model = job.settings, _chat(job.policy, job.inputs), load_model(job.policy)
        method = preference_method(settings.method)
        params = method.settings({name: getattr(settings, name) for name in METHOD_SETTINGS})
        pairs = [_written(chat, pair) for pair in job.written]
        pairs += pairs_from_attempts(
            job.rollouts, settings.min_margin or 0.0, settings.pairs_per_task or PAIRS_PER_TASK, "attempts"
        )
        if not pairs:
            raise TrainError(
                f"{len(job.rollouts)} attempts make no pair: at no task do two of them differ in reward by more than "
                f"{settings.min_margin or 0.0:g}; sample more per task, or a policy that sometimes succeeds"
            )
        answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
        _refuse_too_long([s for a in answers for s in a.samples], model.config.max_position_embeddings)
        learner = _fitted_learner(model, chat, job)
        ready = prepare_pairs(pairs, method, params, learner)
        out = held_out_tasks((pair.task_id for pair in ready), settings.held_out_share, job.seed)
        learned, held = ([p for p in ready if (p.task_id in out) is side] for side in (False, True))
        plan, checkpoints = _fit_plan(job, len(learned)), Checkpoints(job.folder, learner)
        async with _validating(model, chat, learner, job) as validate:
            done = await run_preference(
                learner,
                learned,
                held,
                method,
                params,
                plan,
                checkpoints,
                on_step=watch.step,
                should_stop=watch.should_stop,
                validate=validate,
            )
        margins = [pair.margin for pair in pairs if not math.isnan(pair.margin)]
        margin = f", margin {min(margins):.2f} to {max(margins):.2f}" if margins else ""
        what = f"{len(learned)} pairs of {len({p.task_id for p in learned})} tasks{margin}, {len(held)} held out"
        return _picked(checkpoints, done, plan, what)

    async def reward_model(self, job: RewardModelJob, watch: Watch) -> Trained:
        """A reward model on the body of the policy; the checkpoint is picked and calibrated on tasks held out."""
        chat = _chat(job.policy, job.inputs)
        rows = reward_rows(job, chat)
        return await train_reward_model(job, watch, chat, load_model(job.policy), rows, _fit_plan)

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        """Group-relative RL against the frozen start; the checkpoint is picked on validation."""
        settings, guards = job.settings, actions(job.settings.guards)
        if settings.reference:
            compute_with_one_thread()
        chat, model = _chat(job.policy, job.inputs), load_model(job.policy)
        learner = _learner(
            model,
            chat,
            OptimizerConfig(lr=settings.learning_rate, eps=RL_EPS, max_grad_norm=settings.max_grad_norm),
            settings.temperature,
            lora=job.inputs.workflow.settings.training.lora,
            seed=job.seed,
        )
        reference = _learner(copy.deepcopy(model), chat, OptimizerConfig(), settings.temperature)
        plan = replace(_plan(job), compare_halves=guards["gradient_conflict"] != "ignore")
        board, inputs = Board(), job.inputs
        shares = TimeShares(board)
        drawn, judged = inputs.sampling(settings), inputs.sampling(inputs.workflow.settings.evaluation)

        def arm(sampling: SamplingParams, graders: GraderSet, engine: Engine) -> Arm:
            return Arm(inputs.world, inputs.runner, engine, chat, sampling, graders, inputs.prices, board=board)

        ledger = Ledger(lambda step, graded: watch.keep("rl", step, graded), lambda step: watch.kept("rl", step))
        new = partial(_rl_engine, job.policy, reference.model, chat, settings, inputs.engine)
        engines = Engines(partial(_follower, inputs.engine, learner, new, job.folder), new)
        sampled = partial(arm, drawn, inputs.graders.waiting())
        source = await source_of(job, plan.algorithm, learner, engines, sampled, ledger)
        network = _credit_network(plan.algorithm, model, chat, settings)
        checkpoints = Checkpoints(job.folder, learner, {"network": network.learner} if network else {})
        try:
            with Watchdog(board, lambda stuck: watch.tell(str(stuck)), settings.stuck_after_seconds):
                done = await run_rl(
                    learner,
                    reference,
                    plan,
                    checkpoints,
                    rollouts=source.rollouts,
                    on_step=watch.step,
                    should_stop=watch.should_stop,
                    validate=_validator(
                        source.judge,
                        partial(arm, judged, inputs.graders),
                        job.validation[: settings.validation_tasks],
                        job.seed,
                    ),
                    observe=lambda: {**shares(), **source.observe()},
                    watchmen=Watchmen(guards, watch.alarm),
                    network=network,
                )
        finally:
            await source.close()
        return Trained(
            checkpoints.best(done),
            done.step,
            finished=not done.paused and (bool(done.stopped_early) or done.step == settings.num_steps),
            stopped_early=done.stopped_early,
            paused=done.paused,
            note=f"{done.step} steps, best on validation {done.best:.1%} at step {done.best_step}",
            metrics={"validation_success": done.best},
        )

    async def open_engine(
        self, folder: Path, settings: EngineSettings, *, concurrency: int, seed: int
    ) -> tuple[Engine, ChatFormat]:
        """See Trainer. A vLLM server is told to load the folder, which it must be able to read."""
        if (base := base_of(folder)) is not None:
            chat = load_chat(base, settings.tool_format)
            engine = _local_engine(base, lambda: load_model(base), chat, settings, concurrency)
            engine.add_adapter(POLICY, folder)
            return AdapterEngine(engine), chat
        chat = load_chat(folder, settings.tool_format)
        if settings.kind == "vllm":
            return await open_vllm(folder, settings), chat
        return _local_engine(folder, lambda: load_model(folder), chat, settings, concurrency), chat

    async def _imitate(
        self,
        policy: Path,
        chat: HfChat,
        samples: Sequence[TrainingSample],
        held_out: Sequence[TrainingSample],
        job: SFTJob | RejectionJob,
        watch: Watch,
    ) -> Trained:
        model = load_model(policy)
        _refuse_too_long(samples, model.config.max_position_embeddings)
        learner = _fitted_learner(model, chat, job)
        plan, checkpoints = _fit_plan(job, len(samples)), Checkpoints(job.folder, learner)
        async with _validating(model, chat, learner, job) as validate:
            done = await run_sft(
                learner,
                samples,
                held_out,
                plan,
                checkpoints,
                on_step=watch.step,
                should_stop=watch.should_stop,
                validate=validate,
            )
        return _picked(checkpoints, done, plan, f"{len(samples)} conversations")


def _fitted_learner(model: Any, chat: HfChat, job: FitJob) -> LocalLearner:
    """The learner of a stage of supervised training."""
    settings = job.settings
    name = settings.optimizer if isinstance(settings, SFTSettings) else "adamw"
    optimizer = OptimizerConfig(name, settings.learning_rate, max_grad_norm=settings.max_grad_norm)
    return _learner(model, chat, optimizer, lora=job.inputs.workflow.settings.training.lora, seed=job.seed)


def _fit_plan(job: FitJob, num_rows: int) -> FitPlan:
    settings = job.settings
    steps = max(1, math.ceil(settings.num_epochs * num_rows / settings.batch_size))
    return FitPlan(
        steps,
        settings.batch_size,
        job.seed,
        validate_every=max(1, math.ceil(steps / settings.num_validations)),
        warmup_steps=min(FitPlan.warmup_steps, math.ceil(steps / 5)),  # short runs must reach their peak
        max_seconds=settings.max_minutes and settings.max_minutes * 60,
    )


@asynccontextmanager
async def _validating(model: Any, chat: HfChat, learner: LocalLearner, job: FitJob) -> AsyncIterator[Validate | None]:
    """Success of the learner's weights on the validation tasks that pick its checkpoint; None without such tasks."""
    settings = job.inputs.workflow.settings
    tasks = job.inputs.splits.get("validation", [])[: job.settings.validation_tasks]
    new = partial(
        _local_engine, job.policy, lambda: copy.deepcopy(model), chat, job.inputs.engine, VALIDATION_CONCURRENCY
    )
    follower = await _follower(job.inputs.engine, learner, new, job.folder)
    arm = _arm(job.inputs, follower.engine, chat, settings.evaluation)
    try:
        yield _validator(partial(_newest, follower), lambda _: arm, tasks, job.seed) if tasks else None
    finally:
        await follower.engine.close()


def _picked(checkpoints: Checkpoints, done: Progress, plan: FitPlan, what: str) -> Trained:
    return Trained(
        checkpoints.best(done),
        done.step,
        finished=bool(done.stopped_early) or done.step == plan.num_steps,
        stopped_early=done.stopped_early,
        note=f"{done.step} steps on {what}, best at step {done.best_step}",
    )


def _reweighted(job: RejectionJob, chat: HfChat) -> tuple[list[TrainingSample], str]:
    """Samples of other policies' attempts, each by its importance weight, and what they are worth in words."""
    if not job.others:
        return [], ""
    drawn = [attempt_samples(graded, np.zeros(len(graded.attempt.trajectory.calls))) for graded in job.others]
    temperatures = {t for samples in drawn for sample in samples for t in sample.temperatures}
    if len(temperatures) != 1:
        raise TrainError(
            f"attempts of other policies were drawn at temperatures {sorted(temperatures)}; name runs of one"
        )
    scorer = _learner(load_model(job.policy), chat, OptimizerConfig(), temperatures.pop())
    now = iter(scorer.forward([sample for samples in drawn for sample in samples]))
    ratios = [
        sum(float((next(now) - sample.sampling_logprobs)[sample.loss_mask].sum(dtype=np.float64)) for sample in samples)
        for samples in drawn
    ]
    found = importance_weights(ratios)
    weighed = [
        replace(sample, loss_weights=(sample.loss_weights * weight).astype(np.float32))
        for graded, weight in zip(job.others, found.weights, strict=True)
        for sample in _sampled_turns(graded)
    ]
    return weighed, f"; {len(job.others)} attempts of other policies, worth {found.effective:.1f} of its own"


def _written(chat: HfChat, pair: WrittenPair) -> Pair:
    chosen, rejected = (answer_of_messages(chat, pair.given, said, pair.tools) for said in (pair.chosen, pair.rejected))
    return Pair(pair.task_id, chosen, rejected, pair.margin, "written")


def _plan(job: RLJob) -> RLPlan:
    settings, chosen = job.settings, configured(job.preset, own_choices(job.settings))
    replay = ReplayPlan(settings.replay_ratio, settings.replay_steps or REPLAY_STEPS, job.seed)
    return RLPlan(
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
        max_off_policy_steps=settings.lead,
        replay=replay if settings.replay_ratio else None,
    )


def _refuse_too_long(samples: Sequence[TrainingSample], context: int) -> None:
    """Raise TrainError when a conversation does not fit into the model's context."""
    lengths = [len(sample.token_ids) for sample in samples]
    if too_long := sum(length > context for length in lengths):
        raise TrainError(
            f"{too_long} of {len(lengths)} conversations are longer than the model's context of {context} tokens (the "
            f"longest has {max(lengths)}); leave them out, or take a model with a longer context"
        )


def _learner(
    model: Any,
    chat: HfChat,
    optimizer: OptimizerConfig,
    temperature: float = 1.0,
    *,
    lora: LoraSettings | None = None,
    seed: int = 0,
) -> LocalLearner:
    """A learner of `model`, or of a copy of it with adapters: `model` itself then stays plain, for engines."""
    if lora is None:
        hold_planted(model)
    else:
        model = copy.deepcopy(model)
        add_lora(model, lora.rank, lora.alpha, lora.targets, derive(seed, "lora"))
    return LocalLearner(
        model,
        chat.tokenizer,
        optimizer,
        temperature=temperature,
        max_tokens=PACK_TOKENS,
        bf16=pays_bfloat16(model),
    )


def _credit_network(algorithm: Algorithm, start: Any, chat: HfChat, settings: RLSettings) -> CreditNetwork | None:
    """What the preset trains beside the policy, in full; it begins as a copy of the policy."""
    if algorithm.network is None:
        return None
    rate = settings.network_learning_rate or settings.learning_rate
    optimizer = OptimizerConfig(lr=rate, eps=RL_EPS, max_grad_norm=settings.max_grad_norm)
    critic = algorithm.network == "critic"
    kind = CriticLearner if critic else LocalLearner
    learner = kind(
        with_value_head(start) if critic else copy.deepcopy(start),
        chat.tokenizer,
        optimizer,
        temperature=settings.temperature,
        max_tokens=PACK_TOKENS,
        bf16=pays_bfloat16(start),
    )
    return Critic(learner) if isinstance(learner, CriticLearner) else ImplicitRewards(learner)


def _for_sampling(model: Any) -> Any:
    """Where it pays models sample in bfloat16: reading weights is what takes the time."""
    return model.bfloat16() if pays_bfloat16(model) else model


def _chat(folder: Path, inputs: Inputs) -> HfChat:
    return load_chat(folder, inputs.workflow.settings.engine.tool_format)


def _local_engine(
    folder: Path,
    model: Callable[[], Any],
    chat: HfChat,
    settings: EngineSettings,
    num_slots: int,
    on_new_weights: Literal["recompute", "keep"] = "recompute",
    reference: bool = False,
) -> LocalEngine | ProcessEngine:
    """The engine of the settings: in this process, with the `model`, or in one of its own, which reads `folder`.

    It has the adapters of the settings, for agents that ask for them by `model`.
    """
    deterministic = reference or bool(settings.deterministic)
    engine: LocalEngine | ProcessEngine
    if settings.separate_process:
        engine = ProcessEngine(ProcessSpec(str(folder), num_slots, on_new_weights, deterministic, settings.tool_format))
    else:
        engine = LocalEngine(
            _for_sampling(model()),
            num_slots=num_slots,
            tokenizer=chat.tokenizer,
            on_new_weights=on_new_weights,
            deterministic=deterministic,
        )
    for name, adapter in (settings.adapters or {}).items():
        engine.add_adapter(name, adapter)
    return engine


async def _follower(
    settings: EngineSettings,
    learner: LocalLearner,
    new_engine: Callable[[], MemoryEngine],
    folder: Path,
) -> Follower:
    """An engine that follows the learner: a vLLM server by folders that it reads, a local one from memory."""
    if settings.kind == "vllm":
        if learner.model.config.tie_word_embeddings:
            raise TrainError(
                "the policy's output layer is tied to its embeddings, and a server of vLLM (0.32, on a processor) "
                "keeps the old output layer when it loads new weights: it would sample from another policy than the "
                "one that learns; train with the local engine, or a policy whose output layer is its own"
            )
        engine = await connect_vllm(settings)
        return FromFolder(engine, learner.publish, lambda: learner.version, folder / PUBLISHED)
    return FromMemory(new_engine(), lambda: Weights(learner.weights(), learner.version))


def _arm(inputs: Inputs, engine: Engine, chat: ChatFormat, settings: SamplingSettings) -> Arm:
    return Arm(inputs.world, inputs.runner, engine, chat, inputs.sampling(settings), inputs.graders, inputs.prices)


def _rl_engine(
    folder: Path, start: Any, chat: HfChat, settings: RLSettings, engine: EngineSettings
) -> LocalEngine | ProcessEngine:
    """An engine that begins as `start`. Conversations of a validation count among those that keep a slot."""
    alone = settings.reference or bool(engine.deterministic)
    num_slots = max(settings.concurrency, VALIDATION_CONCURRENCY) if alone else settings.concurrency
    keeps = settings.on_new_weights or "recompute"
    return _local_engine(folder, lambda: copy.deepcopy(start), chat, engine, num_slots, keeps, settings.reference)


async def _newest(follower: Follower) -> Engine:
    """The engine, with the learner's current weights."""
    await follower.follow()
    return follower.engine


def _validator(
    newest: Callable[[], Awaitable[Engine]], arm_on: Callable[[Engine], Arm], tasks: Sequence[Task], seed: int
) -> Validate:
    """Success of the newest weights on fixed tasks and draws; a missing outcome counts as failure."""

    async def validate() -> Estimate:
        outcomes = await attempt_all(
            arm_on(await newest()),
            tasks,
            num_trials=1,
            seed=derive(seed, "validation"),
            concurrency=VALIDATION_CONCURRENCY,
            reduce=lambda graded: graded.outcome.success,
        )
        require_some(outcomes, "attempts of a validation")
        return wilson(sum(o is True for o in outcomes), len(outcomes))

    return validate


def _horizon(tasks: Sequence[Task]) -> int:
    """The most tokens that an attempt at any of the tasks can sample."""
    return max(token_budget(t.limits) for t in tasks)


def _sampled_turns(graded: GradedAttempt) -> list[TrainingSample]:
    """A rollout as demonstrations: the tokens that were sampled are the ones imitated.

    At temperature 1 and among the whole vocabulary, whatever the sampler did: what is imitated is the text.
    """
    return [
        replace(sample, support=None, temperatures=(), loss_weights=sample.loss_mask.astype(np.float32))
        for sample in attempt_samples(graded)
    ]


def _texts(demonstration: Demonstration) -> list[str]:
    """What the tokenizer learns from: everything said, called and offered, apart, as turns begin with no blank."""
    parts = [m.get("content") or "" for m in demonstration.messages]
    for message in demonstration.messages:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            parts.append(f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}')
    return [*parts, *map(signature, demonstration.tools)]

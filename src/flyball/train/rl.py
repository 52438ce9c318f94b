"""Group-relative reinforcement learning with tools in the loop.

    each step:  a batch of groups of attempts -> rewards -> advantages -> updates -> new weights

Where batches come from is a `Rollouts`: attempts in turn with the updates, or ahead of them (`train/rollouts.py`).
Attempts are kept before anything is learned from them. A step that was kept but not saved is learned again from the
attempts that are kept, never from new ones: no attempt is recorded twice, and a resumed run ends at the weights of an
unbroken one. The update runs in a thread, so that attempts go on meanwhile. The loop knows no algorithm: a preset's
advantage and aggregation make the samples, its numbers go to the loss. KL to the frozen reference is measured at every
step on `KL_SAMPLES` attempts, and on all of them when it is part of the loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import TrainError, TrainMemoryError
from flyball.metrics import measured
from flyball.models.threads import in_thread
from flyball.rl.algorithms import Algorithm
from flyball.rl.correction import acceptance_by_length
from flyball.rl.guards import instability
from flyball.rl.samples import samples_from_groups
from flyball.stats.intervals import ratio_interval
from flyball.train.attempt_metrics import attempt_metrics, censoring, mismatch, settle, staleness
from flyball.train.fit import OnStep, Validate, out_of_time
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.prepare import prepared, with_policy_now
from flyball.train.progress import Checkpoints, Progress, share_done
from flyball.train.replay import ReplayBuffer, ReplayPlan, replay_metrics
from flyball.train.rollouts import Rollouts
from flyball.types import Estimate, GradedAttempt, TrainingSample

KL_SAMPLES = 16


@dataclass(frozen=True)
class RLPlan:
    """How long, how much per step, and when to stop. `max_off_policy_steps`: how many batches may begin ahead."""

    algorithm: Algorithm
    num_steps: int
    tasks_per_step: int
    seed: int
    validate_every: int
    patience: int | None = None
    max_seconds: float | None = None
    warmup_steps: int = 3
    horizon: int | None = None
    updates_per_batch: int = 1
    attempts_per_step: int = 1
    max_off_policy_steps: int = 0
    replay: ReplayPlan | None = None

    def lr_scale(self, progress: Progress) -> float:
        """Share of the peak for the step that comes next: warm-up, then down to a tenth in a straight line."""
        warm = min(1.0, (progress.step + 1) / self.warmup_steps)
        return warm * (1 - 0.9 * share_done(progress, self.num_steps, self.max_seconds))

    def kl_coef(self, progress: Progress) -> float:
        """Weight of the KL for the step that comes next: a function of what is recorded, so a resumed run goes on."""
        measured = [step["kl"] for step in progress.history if "kl" in step]
        schedule = self.algorithm.kl_schedule.scaled(self.algorithm.kl_coef)
        return schedule.weight(progress.step, self.num_steps, measured, self.attempts_per_step)


async def run_rl(
    learner: LocalLearner,
    reference: LocalLearner,
    plan: RLPlan,
    checkpoints: Checkpoints,
    *,
    rollouts: Rollouts,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    validate: Validate,
    observe: Callable[[], Mapping[str, float]] = dict,
) -> Progress:
    """Train until the plan ends, it breaks, it stops getting better, time is up or it is asked to stop.

    `checkpoints.best` holds the picked policy; when no step was better it is the one that training began with.
    `observe` returns what else is known about the time since it was last called; its metrics are those of the step.
    """
    progress = checkpoints.resume(rollouts.resume_at)
    buffer = ReplayBuffer(plan.replay, rollouts.past_batch) if plan.replay else None
    earlier, started = progress.seconds, time.monotonic()
    if progress.step == plan.num_steps or progress.stopped_early:
        return progress
    async with rollouts.from_step(progress.step):
        if progress.step == 0:
            checkpoints.keep_best(progress, (await validate()).value)
        while progress.step < plan.num_steps and not progress.stopped_early:
            began = time.perf_counter()
            metrics = await _learn(learner, reference, plan, progress, rollouts, buffer)
            progress.seconds = earlier + time.monotonic() - started
            progress.history.append(metrics)
            progress.stopped_early = progress.stopped_early or instability(progress.history) or ""
            if not progress.stopped_early:  # weights that broke are not candidates
                await _publish(rollouts, metrics)
                progress.stopped_early = await _validate_when_due(progress, plan, checkpoints, validate)
            metrics["trainer_idle_share"] = 1 - metrics["train_seconds"] / (time.perf_counter() - began)
            metrics |= observe()
            on_step(progress.step, plan.num_steps, metrics)
            stopping, last = should_stop(), progress.step == plan.num_steps
            ended = stopping or last or bool(progress.stopped_early)
            checkpoints.save(progress, force=ended, needed=rollouts.oldest_needed(progress.step))
            if stopping:
                break
    return progress


async def _learn(
    learner: LocalLearner,
    reference: LocalLearner,
    plan: RLPlan,
    progress: Progress,
    rollouts: Rollouts,
    buffer: ReplayBuffer | None,
) -> dict[str, float]:
    """Wait for the batch of the step and learn from it. A step that the learner refused is a reason to stop."""
    began = time.perf_counter()
    groups = await rollouts.next_batch(progress.step)
    graded = [g for group in groups for g in group]
    metrics = attempt_metrics(graded)
    settle(progress.settled, graded)
    metrics |= censoring(progress.settled) | {"rollout_seconds": time.perf_counter() - began}
    if buffer is not None:
        again, ages = buffer.draw(progress.step, groups, progress.replays)
        metrics |= replay_metrics(len(groups), ages)
        groups = [*groups, *again]
    began = time.perf_counter()
    try:
        metrics |= await in_thread(update, learner, reference, groups, plan, progress)
    except TrainMemoryError:  # the run ends here, and may be taken up again
        raise
    except TrainError as refused:  # the learner dropped the step, its weights are unchanged
        progress.stopped_early = str(refused)
    metrics["train_seconds"] = time.perf_counter() - began
    progress.step += 1
    return metrics


async def _publish(rollouts: Rollouts, metrics: dict[str, float]) -> None:
    began = time.perf_counter()
    await rollouts.learned()
    metrics["weights_seconds"] = time.perf_counter() - began


async def _validate_when_due(progress: Progress, plan: RLPlan, checkpoints: Checkpoints, validate: Validate) -> str:
    """Validate after every `validate_every` steps and at the end. Returns why training should stop, or ''."""
    reason = out_of_time(progress, plan.max_seconds)
    if not reason and progress.step < plan.num_steps and progress.step % plan.validate_every:
        return ""
    began, metrics = time.perf_counter(), progress.history[-1]
    found = await validate()
    metrics |= measured("validation_success", found) | {"validation_seconds": time.perf_counter() - began}
    checkpoints.keep_best(progress, found.value)
    last = progress.step == plan.num_steps
    if plan.patience and not last and progress.step - progress.best_step >= plan.patience * plan.validate_every:
        reason = reason or f"no better validation for {plan.patience} validations"
    return reason


def update(
    learner: LocalLearner,
    reference: LocalLearner,
    groups: Sequence[Sequence[GradedAttempt]],
    plan: RLPlan,
    progress: Progress,
) -> dict[str, float]:
    """The updates on one batch of groups; a batch without signal leaves the weights as they are.

    With several updates every one takes its share of the groups, whole, and is an optimizer-step batch of its own; the
    ratio of the clip is to the policy before the first.
    """
    signals = [
        samples_from_groups(groups[k :: plan.updates_per_batch], plan.algorithm, plan.horizon)
        for k in range(plan.updates_per_batch)
    ]
    metrics = {
        "zero_variance_share": sum(s.num_zero_variance for s in signals) / max(len(groups), 1),
        "missing_share": sum(s.num_missing for s in signals) / max(sum(map(len, groups)), 1),
    }
    batches = [list(signal.samples) for signal in signals if signal.samples]
    if not batches:
        return metrics
    everything = [sample for batch in batches for sample in batch]
    metrics |= measured("kl", kl_to_reference(learner, reference, everything, progress.step))
    metrics |= staleness(everything, learner.version, plan.max_off_policy_steps * plan.updates_per_batch)
    if plan.max_off_policy_steps or plan.replay:
        some = _drawn(everything, progress.step)
        metrics |= mismatch(some, learner.forward(some), learner.version)
    kl_coef = plan.kl_coef(progress)
    spec = LossSpec("policy", plan.algorithm.loss_params(0.0 if plan.algorithm.kl_in_reward else kl_coef))
    done: list[dict[str, float]] = []
    for batch in prepared(batches, learner, reference, plan.algorithm, kl_coef, plan.horizon):
        batch, found = with_policy_now(batch, learner, plan.algorithm)
        one = learner.forward_backward(batch, spec) | found
        done.append(one | learner.optim_step(plan.lr_scale(progress)))
    total = sum(one["trained_tokens"] for one in done)
    names = MEANS | {key: key for one in done for key in one if "@" in key}
    means = {name: sum(one.get(k, 0.0) * one["trained_tokens"] for one in done) / total for k, name in names.items()}
    by_class = {key: means.pop(key) for key in list(means) if "@" in key}
    return metrics | means | acceptance_by_length(by_class) | {"trained_tokens": total, "kl_coef": kl_coef}


MEANS = {
    "loss": "loss",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "ratio": "ratio_mean",
    "clip_fraction": "clip_fraction",
    "tis_capped": "tis_capped_share",
    "logprob_gap": "logprob_gap_mean",
    "kl_loss": "kl_loss",
}
"""What the learner reports for an update, and its name in `metrics.py`; updates are averaged by their tokens."""


def kl_to_reference(
    learner: LocalLearner, reference: LocalLearner, samples: Sequence[TrainingSample], step: int
) -> Estimate:
    """k3 estimate of KL(policy || reference) in nats per sampled token, on at most `KL_SAMPLES` samples drawn anew."""
    picked = _drawn(samples, step)
    sums = []
    for sample, now, ref in zip(picked, learner.forward(picked), reference.forward(picked), strict=True):
        log_r = (ref - now)[sample.loss_mask].astype(np.float64)
        sums.append(float((np.exp(log_r) - 1 - log_r).sum()))
    if not np.isfinite(sums).all():  # the update that follows refuses such weights; the curve shows where they left
        return Estimate(math.inf, -math.inf, math.inf, len(picked), unit="nats/token")
    return ratio_interval(sums, [float(sample.loss_mask.sum()) for sample in picked], unit="nats/token")


def _drawn(samples: Sequence[TrainingSample], step: int) -> list[TrainingSample]:
    return [samples[i] for i in np.random.default_rng(step).permutation(len(samples))[:KL_SAMPLES]]

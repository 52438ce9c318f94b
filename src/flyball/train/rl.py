"""Group-relative reinforcement learning with tools in the loop.

    each step:  tasks -> groups of attempts by the current policy -> rewards -> advantages -> one update -> new weights

Synchronous: every attempt of a step is by the same policy, so nothing is stale. The loop knows no algorithm: a preset's
advantage and aggregation make the samples, its numbers go to the loss. KL to the frozen reference is measured at every
step on `KL_SAMPLES` attempts, and on all of them when it is part of the loss.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flyball.rl.algorithms import Algorithm
from flyball.rl.guards import instability
from flyball.rl.samples import samples_from_groups
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.progress import Checkpoints, Progress
from flyball.train.sft import OnStep, Validate, batch_at
from flyball.types import GradedAttempt, Missing, StopReason, Task, TrainingSample

KL_SAMPLES = 16
Attempt_G = Callable[[Sequence[Task], int], Awaitable[list[list[GradedAttempt]]]]
"""(tasks, step) -> graded groups by the learner's current weights."""


@dataclass(frozen=True)
class RLPlan:
    """How long, how much per step, and when to stop."""

    algorithm: Algorithm
    num_steps: int
    tasks_per_step: int
    seed: int
    validate_every: int
    patience: int | None = None
    max_seconds: float | None = None
    warmup_steps: int = 3
    horizon: int | None = None

    @property
    def loss(self) -> LossSpec:
        a = self.algorithm
        return LossSpec(
            "policy",
            {
                "clip_ratio_low": a.clip_ratio_low,
                "clip_ratio_high": a.clip_ratio_high,
                "tis_cap": a.tis_cap,
                "kl_coef": a.kl_coef,
            },
        )


@dataclass(frozen=True)
class RLEnd:
    """How the loop ended: `stopped_early` says why, or ''."""

    progress: Progress
    stopped_early: str = ""


async def run_rl(
    learner: LocalLearner,
    reference: LocalLearner,
    tasks: Sequence[Task],
    plan: RLPlan,
    checkpoints: Checkpoints,
    *,
    attempt: Attempt_G,
    keep: Callable[[int, Sequence[GradedAttempt]], None],
    on_step: OnStep,
    should_stop: Callable[[], bool],
    validate: Validate,
) -> RLEnd:
    """Train until the plan ends, it breaks, it stops getting better, time is up or it is asked to stop."""
    progress = checkpoints.resume()
    earlier, started = progress.seconds, time.monotonic()
    if progress.step == 0:
        checkpoints.keep_best(progress, await validate())
    while progress.step < plan.num_steps:
        step = progress.step
        began = time.perf_counter()
        rows = batch_at(len(tasks), plan.tasks_per_step, plan.seed, step)
        groups = await attempt([tasks[i] for i in rows], step)
        graded = [g for group in groups for g in group]
        metrics = attempt_metrics(graded) | {"rollout_seconds": time.perf_counter() - began}
        began = time.perf_counter()
        metrics |= update(learner, reference, groups, plan, step) | {"train_seconds": time.perf_counter() - began}
        progress.step += 1
        progress.seconds = earlier + time.monotonic() - started
        progress.history.append(metrics)
        reason = instability(progress.history)
        if plan.max_seconds is not None and progress.seconds > plan.max_seconds:
            reason = reason or f"{progress.seconds / 60:.1f} minutes are up"
        if progress.step == plan.num_steps or progress.step % plan.validate_every == 0 or reason:
            began = time.perf_counter()
            value = metrics["validation_success"] = await validate()
            metrics["validation_seconds"] = time.perf_counter() - began
            checkpoints.keep_best(progress, value)
            if plan.patience and progress.step - progress.best_step >= plan.patience * plan.validate_every:
                reason = reason or f"no better validation for {plan.patience} validations"
        keep(progress.step, graded)
        checkpoints.save(progress, force=should_stop() or bool(reason) or progress.step == plan.num_steps)
        on_step(progress.step, plan.num_steps, metrics)
        if reason:
            return RLEnd(progress, reason)
        if should_stop():
            break
    return RLEnd(progress)


def update(
    learner: LocalLearner,
    reference: LocalLearner,
    groups: Sequence[Sequence[GradedAttempt]],
    plan: RLPlan,
    step: int,
) -> dict[str, float]:
    """One optimizer step on a batch of groups. A batch without signal leaves the weights as they are."""
    signal = samples_from_groups(groups, plan.algorithm, plan.horizon)
    metrics = {
        "zero_variance_share": signal.num_zero_variance / max(signal.num_groups, 1),
        "missing_share": signal.num_missing / max(sum(map(len, groups)), 1),
    }
    if not signal.samples:
        return metrics
    samples = list(signal.samples)
    if plan.algorithm.kl_coef:
        samples = [replace(s, ref_logprobs=r) for s, r in zip(samples, reference.forward(samples), strict=True)]
    metrics["kl"] = kl_to_reference(learner, reference, samples, step)
    done = learner.forward_backward(samples, plan.loss)
    done |= learner.optim_step(min(1.0, (step + 1) / plan.warmup_steps))
    names = {
        "loss": "loss",
        "entropy": "entropy",
        "grad_norm": "grad_norm",
        "trained_tokens": "trained_tokens",
        "ratio": "ratio_mean",
        "clip_fraction": "clip_fraction",
        "logprob_gap": "logprob_gap_mean",
    }
    return metrics | {names[k]: v for k, v in done.items() if k in names}


def kl_to_reference(
    learner: LocalLearner, reference: LocalLearner, samples: Sequence[TrainingSample], step: int
) -> float:
    """k3 estimate of KL(policy || reference) in nats per sampled token, on at most `KL_SAMPLES` samples."""
    chosen = np.random.default_rng(step).permutation(len(samples))[:KL_SAMPLES]
    picked = [samples[i] for i in chosen]
    total = count = 0.0
    for sample, now, ref in zip(picked, learner.forward(picked), reference.forward(picked), strict=True):
        log_r = (ref - now)[sample.loss_mask].astype(np.float64)
        total += float((np.exp(log_r) - 1 - log_r).sum())
        count += int(sample.loss_mask.sum())
    return total / max(count, 1.0)


def attempt_metrics(graded: Sequence[GradedAttempt]) -> dict[str, float]:
    """Means over the attempts of a step; attempts without a reward or outcome are left out of that mean."""
    rewards = [g.reward for g in graded if not isinstance(g.reward, Missing)]
    outcomes = [g.outcome.success for g in graded if not isinstance(g.outcome.success, Missing)]
    limits = (StopReason.MAX_TURNS, StopReason.MAX_TOOL_CALLS, StopReason.MAX_TOKENS, StopReason.MAX_SECONDS)
    n = max(len(graded), 1)
    metrics = {
        "completion_tokens_mean": sum(g.attempt.usage.tokens_out for g in graded) / n,
        "tool_calls_mean": sum(g.attempt.num_tool_calls for g in graded) / n,
        "turns_mean": sum(len(g.attempt.trajectory.calls) for g in graded) / n,
        "truncated_share": sum(g.attempt.stop in limits for g in graded) / n,
        "malformed_share": sum(g.attempt.stop is StopReason.MALFORMED for g in graded) / n,
    }
    if rewards:
        metrics |= {"reward_mean": float(np.mean(rewards)), "reward_std": float(np.std(rewards))}
    if outcomes:
        metrics["success_rate"] = float(np.mean(outcomes))
    return metrics

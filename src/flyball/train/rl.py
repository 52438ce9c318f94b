"""Group-relative reinforcement learning with tools in the loop.

    each step:  tasks -> groups of attempts by the current policy -> rewards -> advantages -> one update -> new weights

Synchronous: every attempt of a step is by the same policy, so nothing is stale. Attempts are kept before anything is
learned from them. A step that was kept but not saved is learned again from the attempts that are kept, never from new
ones: no attempt is recorded twice, and a resumed run ends at the weights of an unbroken one. The loop knows no
algorithm: a preset's advantage and aggregation make the samples, its numbers go to the loss. KL to the frozen reference
is measured at every step on `KL_SAMPLES` attempts, and on all of them when it is part of the loss.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flyball.errors import TrainError
from flyball.rl.algorithms import Algorithm
from flyball.rl.guards import instability
from flyball.rl.samples import samples_from_groups
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.progress import Checkpoints, Progress
from flyball.train.sft import OnStep, Validate, batch_at, out_of_time
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
class Ledger:
    """The record of attempts. Steps count from 1.

    `keep(step, graded)` writes all attempts of a step or none. `kept(step)` reads them in the same order, groups
    together; empty when there are none.
    """

    keep: Callable[[int, Sequence[GradedAttempt]], None]
    kept: Callable[[int], Sequence[GradedAttempt]]


async def run_rl(
    learner: LocalLearner,
    reference: LocalLearner,
    tasks: Sequence[Task],
    plan: RLPlan,
    checkpoints: Checkpoints,
    *,
    attempt: Attempt_G,
    ledger: Ledger,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    validate: Validate,
) -> Progress:
    """Train until the plan ends, it breaks, it stops getting better, time is up or it is asked to stop.

    `checkpoints.best` holds the picked policy; when no step was better it is the one that training began with.
    """
    progress = checkpoints.resume()
    earlier, started = progress.seconds, time.monotonic()
    if progress.step == 0:
        checkpoints.keep_best(progress, await validate())
    while progress.step < plan.num_steps and not progress.stopped_early:
        step = progress.step
        began = time.perf_counter()
        rows = batch_at(len(tasks), plan.tasks_per_step, plan.seed, step)
        groups = await _groups([tasks[i] for i in rows], step, attempt, ledger)
        metrics = attempt_metrics([g for group in groups for g in group])
        metrics["rollout_seconds"] = time.perf_counter() - began
        began, broken = time.perf_counter(), ""
        try:
            metrics |= update(learner, reference, groups, plan, step)
        except TrainError as refused:  # the learner dropped the step, its weights are unchanged
            broken = str(refused)
        metrics["train_seconds"] = time.perf_counter() - began
        progress.step += 1
        progress.seconds = earlier + time.monotonic() - started
        progress.history.append(metrics)
        progress.stopped_early = broken or instability(progress.history) or ""
        if not progress.stopped_early:  # weights that broke are not candidates
            progress.stopped_early = await _validate_when_due(progress, plan, checkpoints, validate)
        on_step(progress.step, plan.num_steps, metrics)
        stopping, last = should_stop(), progress.step == plan.num_steps
        checkpoints.save(progress, force=stopping or last or bool(progress.stopped_early))
        if stopping:
            break
    return progress


async def _groups(
    tasks: Sequence[Task], step: int, attempt: Attempt_G, ledger: Ledger
) -> Sequence[Sequence[GradedAttempt]]:
    """The attempts of step `step` (from 0), one group per task: those that are kept, else new ones, then kept."""
    if kept := ledger.kept(step + 1):
        size = len(kept) // len(tasks)
        return [kept[i : i + size] for i in range(0, len(kept), size)]
    groups = await attempt(tasks, step)
    ledger.keep(step + 1, [g for group in groups for g in group])
    return groups


async def _validate_when_due(progress: Progress, plan: RLPlan, checkpoints: Checkpoints, validate: Validate) -> str:
    """Validate after every `validate_every` steps and at the end. Returns why training should stop, or ''."""
    reason = out_of_time(progress, plan.max_seconds)
    if not reason and progress.step < plan.num_steps and progress.step % plan.validate_every:
        return ""
    began, metrics = time.perf_counter(), progress.history[-1]
    value = metrics["validation_success"] = await validate()
    metrics["validation_seconds"] = time.perf_counter() - began
    checkpoints.keep_best(progress, value)
    last = progress.step == plan.num_steps
    if plan.patience and not last and progress.step - progress.best_step >= plan.patience * plan.validate_every:
        reason = reason or f"no better validation for {plan.patience} validations"
    return reason


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

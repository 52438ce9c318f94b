"""Group-relative reinforcement learning with tools in the loop.

    each step:  a batch of groups of attempts -> rewards -> advantages -> updates -> new weights

Where batches come from is a `Rollouts`: attempts in turn with the updates, or ahead of them (`train/rollouts.py`).
Attempts are kept before anything is learned from them. A step that was kept but not saved is learned again from the
attempts that are kept, never from new ones: no attempt is recorded twice, and a resumed run ends at the weights of an
unbroken one. The update runs in a thread, so that attempts go on meanwhile. What one update is: `update.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from flyball.errors import TrainError, TrainMemoryError
from flyball.metrics import measured
from flyball.models.threads import in_thread
from flyball.rl.samples import is_greedy
from flyball.train.attempt_metrics import attempt_metrics, censoring, peak_memory, settle
from flyball.train.credit_network import CreditNetwork
from flyball.train.fit import OnStep, Validate, out_of_time
from flyball.train.guards import NO_GUARDS, Watchmen
from flyball.train.learner import LocalLearner
from flyball.train.progress import Checkpoints, Progress
from flyball.train.replay import ReplayBuffer, replay_metrics
from flyball.train.rl_plan import RLPlan
from flyball.train.rollouts import Groups, Rollouts
from flyball.train.update import update


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
    watchmen: Watchmen = NO_GUARDS,
    network: CreditNetwork | None = None,
) -> Progress:
    """Train until the plan ends, a guard ends or pauses it, it stops getting better, time is up or it is asked to stop.

    `checkpoints.best` holds the picked policy; when no step was better it is the one that training began with.
    `observe` returns what else is known about the time since it was last called; its metrics are those of the step.
    """
    progress = checkpoints.resume(rollouts.resume_at)
    buffer = ReplayBuffer(plan.replay, rollouts.past_batch) if plan.replay else None
    progress.paused = ""  # whoever resumes it has looked
    earlier, started = progress.seconds, time.monotonic()
    if progress.step == plan.num_steps or progress.stopped_early:
        return progress
    async with rollouts.from_step(progress.step):
        if progress.step == 0:
            checkpoints.keep_best(progress, (await validate()).value)
        while progress.step < plan.num_steps and not progress.stopped_early:
            began = time.perf_counter()
            learned = partial(update, learner, reference, plan=plan, progress=progress, network=network)
            metrics = await _learn(learned, plan, progress, rollouts, buffer, learner.version)
            progress.seconds = earlier + time.monotonic() - started
            progress.history.append(metrics)
            watchmen.look(progress)
            if not progress.stopped_early:  # weights that broke are not candidates
                await _publish(rollouts, metrics)
                progress.stopped_early = await _validate_when_due(progress, plan, checkpoints, validate)
                watchmen.look(progress)
            metrics["trainer_idle_share"] = 1 - metrics["train_seconds"] / (time.perf_counter() - began)
            metrics |= observe()
            on_step(progress.step, plan.num_steps, metrics)
            stopping, last = should_stop() or bool(progress.paused), progress.step == plan.num_steps
            ended = stopping or last or bool(progress.stopped_early)
            checkpoints.save(progress, force=ended, needed=rollouts.oldest_needed(progress.step))
            if stopping:
                break
    return progress


async def _learn(
    learned: Callable[[Groups], dict[str, float]],
    plan: RLPlan,
    progress: Progress,
    rollouts: Rollouts,
    buffer: ReplayBuffer | None,
    version: int,
) -> dict[str, float]:
    """Wait for the batch of the step and learn from it, at `version` of the learner.

    A step that the learner refused is a reason to stop.
    """
    began = time.perf_counter()
    groups = await rollouts.next_batch(progress.step)
    graded = [g for group in groups for g in group]
    metrics = attempt_metrics([g for g in graded if not is_greedy(g)])
    if len(groups) > plan.tasks_per_step:
        metrics["refilled_share"] = 1 - plan.tasks_per_step / len(groups)
    settle(progress.settled, graded, plan.algorithm, version)
    metrics |= censoring(progress.settled) | {"rollout_seconds": time.perf_counter() - began}
    if buffer is not None:
        again, ages = buffer.draw(progress.step, groups, progress.replays)
        metrics |= replay_metrics(len(groups), ages)
        groups = [*groups, *again]
    began = time.perf_counter()
    try:
        metrics |= await in_thread(learned, groups)
    except TrainMemoryError:  # the run ends here, and may be taken up again
        raise
    except TrainError as refused:  # the learner dropped the step, its weights are unchanged
        progress.stopped_early = str(refused)
    metrics["peak_memory"] = peak_memory()
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

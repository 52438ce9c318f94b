"""Reward models of one machine: rows from pairs, labels or attempts, training, calibration, and what they leave."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flyball.config import RewardModelSettings
from flyball.errors import TrainError
from flyball.metrics import measured
from flyball.models.hf_chat import HfChat
from flyball.models.reward_head import (
    BETA,
    AnyRewardModel,
    Facts,
    ImplicitRewardModel,
    RewardModel,
    Talk,
    encode_turns,
    load_reward_model,
    save_reward_model,
)
from flyball.rl.pairs import held_out_tasks, matched
from flyball.rl.process_targets import step_targets
from flyball.stats.written import format_estimate
from flyball.train.fit import FitPlan
from flyball.train.progress import Checkpoints
from flyball.train.reward_model import Calibration, RewardLearner, RewardRow, calibrate, run_reward_model
from flyball.types import Attempt, GradedAttempt, Message
from flyball.workflow.trainer import RewardModelJob, Trained, Watch

PAIRS_PER_TASK, DISCOUNT = 4, 0.95
CALIBRATION = "calibration.json"
"""Beside the weights: accuracy, calibration error, Brier score and the reliability curve on tasks held out."""


def reward_rows(job: RewardModelJob, chat: HfChat) -> list[RewardRow]:
    """The data of a job as rows. Raises TrainError when they teach nothing."""
    make: Mapping[str, Callable[[RewardModelJob, HfChat], list[RewardRow]]] = {
        "pairs": _pairs,
        "outcome": _outcomes,
        "process": _steps,
        "implicit": _outcomes,
    }
    rows = make[job.settings.kind](job, chat)
    told = {row.labels for row in rows} if all(row.worse is None for row in rows) else None
    if not rows or (told is not None and len({x for labels in told for x in labels}) < 2):
        raise TrainError(
            f"a reward model of kind {job.settings.kind!r} has nothing to tell apart in {len(job.rollouts)} attempts, "
            f"{len(job.written)} pairs and {len(job.labelled)} labels; it needs good and bad ones"
        )
    return rows


async def train_reward_model(
    job: RewardModelJob,
    watch: Watch,
    chat: HfChat,
    body: Any,
    rows: list[RewardRow],
    plan_of: Callable[[RewardModelJob, int], FitPlan],
) -> Trained:
    """Train on most tasks, pick the checkpoint and calibrate on the others. Raises TrainError without enough tasks."""
    settings, longest = job.settings, body.config.max_position_embeddings
    fits = [row for row in rows if all(len(t.token_ids) <= longest for t in (row.talk, row.worse) if t is not None)]
    if len(fits) < len(rows):
        raise TrainError(f"{len(rows) - len(fits)} of {len(rows)} rows are longer than the model's {longest} tokens")
    out = held_out_tasks((row.task_id for row in rows), settings.held_out_share, job.seed)
    learned, held = ([row for row in rows if (row.task_id in out) is side] for side in (False, True))
    learner = RewardLearner(_new(body, settings), chat.tokenizer, settings.learning_rate, settings.max_grad_norm)
    plan, checkpoints = plan_of(job, len(learned)), Checkpoints(job.folder, learner)
    done = await run_reward_model(
        learner, learned, held, plan, checkpoints, on_step=watch.step, should_stop=watch.should_stop
    )
    finished = bool(done.stopped_early) or done.step == plan.num_steps
    if not finished:
        return Trained(job.folder, done.step, finished=False)
    best = load_reward_model(checkpoints.best(done)).model
    found = calibrate(RewardLearner(best, chat.tokenizer, 0.0), held, settings.kind, job.seed)
    best.facts = found.facts
    folder = job.folder / "calibrated"
    save_reward_model(best, chat.tokenizer, folder)
    _write(folder / CALIBRATION, found)
    right, error = found.accuracy, found.error
    told = f"right on {format_estimate(right)} held out"
    calibrated = f"calibration error {format_estimate(error)}"
    return Trained(
        folder,
        done.step,
        stopped_early=done.stopped_early,
        note=f"{done.step} steps on {len(learned)} rows; {told}, {calibrated}",
        metrics=measured("reward_calibration_error", error),
    )


def _new(body: Any, settings: RewardModelSettings) -> AnyRewardModel:
    """What training begins with: it scores every conversation 0."""
    if settings.kind != "implicit":
        return RewardModel(body)
    return ImplicitRewardModel(body, copy.deepcopy(body), Facts("implicit", beta=settings.beta or BETA))


def _write(path: Path, found: Calibration) -> None:
    path.write_text(json.dumps(asdict(found), indent=1))


def _pairs(job: RewardModelJob, chat: HfChat) -> list[RewardRow]:
    written = [
        RewardRow(
            pair.task_id,
            _talk(chat, [*pair.given, *pair.chosen], last_only=True),
            _talk(chat, [*pair.given, *pair.rejected], last_only=True),
        )
        for pair in job.written
    ]
    settings = job.settings
    made = matched(job.rollouts, settings.min_margin or 0.0, settings.pairs_per_task or PAIRS_PER_TASK)
    return written + [
        RewardRow(better.attempt.task.task_id, _ending(chat, better.attempt), _ending(chat, worse.attempt))
        for better, worse in made
    ]


def _outcomes(job: RewardModelJob, chat: HfChat) -> list[RewardRow]:
    labelled = [
        RewardRow(talk.task_id, _talk(chat, talk.messages, last_only=True), labels=talk.labels) for talk in job.labelled
    ]
    judged = [g for g in job.rollouts if isinstance(g.outcome.success, bool) and _spoke(g)]
    return labelled + [
        RewardRow(g.attempt.task.task_id, _ending(chat, g.attempt), labels=(float(g.outcome.success is True),))
        for g in judged
    ]


def _steps(job: RewardModelJob, chat: HfChat) -> list[RewardRow]:
    rows = [RewardRow(talk.task_id, _talk(chat, talk.messages), labels=talk.labels) for talk in job.labelled]
    values: dict[str, list[float]] = {}
    for target in step_targets(job.rollouts, job.settings.discount or DISCOUNT):
        values.setdefault(target.attempt_id, []).append(target.value)
    for graded in job.rollouts:
        attempt = graded.attempt
        talk, labels = _talk(chat, attempt.messages), values.get(attempt.attempt_id, [])
        if labels and len(labels) == len(talk.places):  # sub-agents speak in calls that are no turn of the talk
            rows.append(RewardRow(attempt.task.task_id, talk, labels=tuple(labels)))
    return rows


def _spoke(graded: GradedAttempt) -> bool:
    return any(message["role"] == "assistant" for message in graded.attempt.messages)


def _ending(chat: HfChat, attempt: Attempt) -> Talk:
    return _talk(chat, attempt.messages, last_only=True)


def _talk(chat: HfChat, messages: Any, *, last_only: bool = False) -> Talk:
    said: list[Message] = list(messages)
    talk = encode_turns(chat, said)
    return replace(talk, places=talk.places[-1:]) if last_only else talk

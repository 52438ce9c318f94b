"""Supervised fine-tuning: maximum likelihood of the assistant's tokens in demonstrated conversations.

The checkpoint is picked on validation: by the success of real attempts where a `validate` is given, else by held-out
loss. Batches come from a seeded permutation of each epoch, so a resumed run sees what an unbroken one would have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.errors import TrainError
from flyball.metrics import measured
from flyball.models.hf_chat import HfChat
from flyball.rl.samples import weighted
from flyball.rng import derive
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.progress import Checkpoints, Progress, share_done
from flyball.types import Estimate, Message, TrainingSample

OnStep = Callable[[int, int, Mapping[str, float]], None]
Validate = Callable[[], Awaitable[Estimate]]
"""Success of real attempts by the learner's current weights."""


@dataclass(frozen=True)
class SFTPlan:
    """How long and how fast.

    The learning rate warms up over `warmup_steps`, then falls as a cosine to a tenth at the last step, or at the end of
    the time where that comes first.
    """

    num_steps: int
    batch_size: int
    seed: int
    validate_every: int
    warmup_steps: int = 20
    max_seconds: float | None = None

    def lr_scale(self, progress: Progress) -> float:
        """Share of the peak for the step that comes next."""
        warm = min(1.0, (progress.step + 1) / self.warmup_steps)
        done = share_done(progress, self.num_steps, self.max_seconds)
        return warm * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def demonstration_sample(chat: HfChat, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> TrainingSample:
    """A demonstrated conversation as a sample; the assistant's turns are trained, everything else is given."""
    ids, mask = chat.conversation(messages, tools)
    zeros = np.zeros(len(ids), np.float32)
    return TrainingSample(np.asarray(ids, np.int64), np.asarray(mask, np.bool_), zeros, zeros, zeros)


def batch_at(num_samples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of step `step`: consecutive pieces of one seeded permutation per epoch.

    Raises TrainError when there is nothing to take from.
    """
    if num_samples < 1:
        raise TrainError("nothing to train on: 0 samples; give at least one")
    picked: list[int] = []
    position = step * batch_size
    while len(picked) < batch_size:
        epoch, offset = divmod(position, num_samples)
        order = np.random.default_rng(derive(seed, "epoch", epoch)).permutation(num_samples)
        take = order[offset : offset + batch_size - len(picked)]
        picked += take.tolist()
        position += len(take)
    return picked


async def run_sft(
    learner: LocalLearner,
    samples: Sequence[TrainingSample],
    held_out: Sequence[TrainingSample],
    plan: SFTPlan,
    checkpoints: Checkpoints,
    *,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    validate: Validate | None = None,
) -> Progress:
    """Train until the plan ends, time is up or it is asked to stop. `checkpoints.best` holds the picked policy.

    Without `validate` and `held_out` there is nothing to pick by, and the last weights are the best.
    """
    progress = checkpoints.resume()
    held_out = weighted(held_out, "token-mean")
    earlier, started = progress.seconds, time.monotonic()
    while progress.step < plan.num_steps and not progress.stopped_early:
        rows = batch_at(len(samples), plan.batch_size, plan.seed, progress.step)
        batch = weighted([samples[i] for i in rows], "token-mean")
        metrics = learner.forward_backward(batch, LossSpec("sft"))
        metrics |= learner.optim_step(plan.lr_scale(progress))
        progress.step += 1
        progress.seconds = earlier + time.monotonic() - started
        shown = {"sft_loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
        progress.stopped_early = out_of_time(progress, plan.max_seconds)
        last = progress.step == plan.num_steps or bool(progress.stopped_early)
        if last or progress.step % plan.validate_every == 0:
            value = 0.0
            if held_out:
                loss = shown["sft_validation_loss"] = held_out_loss(learner, held_out)
                value = -loss
            if validate is not None:
                found = await validate()
                value = found.value
                shown |= measured("validation_success", found)
            checkpoints.keep_best(progress, value)
        on_step(progress.step, plan.num_steps, shown)
        stopping = should_stop()
        checkpoints.save(progress, force=last or stopping)
        if stopping:
            break
    return progress


def out_of_time(progress: Progress, max_seconds: float | None) -> str:
    """Why training ends now if its time is up, else ''."""
    if max_seconds is None or progress.seconds <= max_seconds:
        return ""
    return f"{progress.seconds / 60:.1f} of {max_seconds / 60:.1f} minutes are up"


def held_out_loss(learner: LocalLearner, held_out: Sequence[TrainingSample]) -> float:
    """Cross-entropy in nats per demonstrated token."""
    logprobs = learner.forward(held_out)
    return -float(sum((lp * s.loss_weights).sum() for lp, s in zip(logprobs, held_out, strict=True)))

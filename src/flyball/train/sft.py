"""Supervised fine-tuning: maximum likelihood of the assistant's tokens in demonstrated conversations.

A message may say its `weight`, as in OpenAI's files: 0 is given and not learned, 2 counts twice. The loss of a batch is
the weighted mean sum(w l) / sum(w) over its tokens. The checkpoint is picked on validation (`fit.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.errors import DatasetError, ModelError, TrainError
from flyball.models.hf_chat import HfChat
from flyball.train.fit import FitPlan, OnStep, Validate, fit
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.progress import Checkpoints, Progress
from flyball.types import Message, TrainingSample


def demonstration_sample(chat: HfChat, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> TrainingSample:
    """A demonstrated conversation as a sample; the assistant's turns are trained, everything else is given.

    `loss_weights` hold the weight of each trained token's message, 1 where none is said; a weight of 0 trains nothing.
    Raises DatasetError for a weight that is no number from 0 up.
    """
    ids, mask = chat.conversation(messages, tools)
    turn = turns_of(np.asarray(mask, np.bool_))
    weights = np.array([_weight(m) for m in messages if m["role"] == "assistant"], np.float32)
    if len(weights) != turn.max(initial=-1) + 1:
        raise ModelError(
            f"the chat template writes {len(weights)} turns of the assistant as {turn.max(initial=-1) + 1}; turns that "
            "run into each other cannot be told apart"
        )
    by_token = np.where(turn >= 0, weights[turn] if len(weights) else 0, 0).astype(np.float32)
    zeros = np.zeros(len(ids), np.float32)
    return TrainingSample(np.asarray(ids, np.int64), by_token > 0, zeros, zeros, by_token)


def turns_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The number [T] of the turn that each sampled token belongs to, -1 for what is given."""
    begins = mask & ~np.concatenate([[False], mask[:-1]])
    return np.where(mask, np.cumsum(begins) - 1, -1)


def _weight(message: Message) -> float:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= float(weight) < float("inf"):
        raise DatasetError(f"a message has weight {weight!r}; it is a number from 0 up, 0 = not learned")
    return float(weight)


def weighted_mean(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """The samples with their loss weights divided by the sum over all. Raises TrainError when that is 0."""
    total = float(sum(s.loss_weights.sum(dtype=np.float64) for s in samples))
    if total <= 0:
        raise TrainError(f"nothing to learn from {len(samples)} conversations: every message of them has weight 0")
    return [replace(s, loss_weights=(s.loss_weights / total).astype(np.float32)) for s in samples]


async def run_sft(
    learner: LocalLearner,
    samples: Sequence[TrainingSample],
    held_out: Sequence[TrainingSample],
    plan: FitPlan,
    checkpoints: Checkpoints,
    *,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    validate: Validate | None = None,
) -> Progress:
    """Imitate `samples`, whose `loss_weights` are those of their messages; see `fit`."""
    held = weighted_mean(held_out) if held_out else []

    def learn(rows: Sequence[int], lr_scale: float) -> Mapping[str, float]:
        metrics = learner.forward_backward(weighted_mean([samples[i] for i in rows]), LossSpec("sft"))
        metrics |= learner.optim_step(lr_scale)
        return {"sft_loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}

    def judge() -> tuple[float, Mapping[str, float]]:
        loss = held_out_loss(learner, held)
        return -loss, {"sft_validation_loss": loss}

    return await fit(
        plan,
        checkpoints,
        learn,
        num_rows=len(samples),
        on_step=on_step,
        should_stop=should_stop,
        judge=judge if held else None,
        validate=validate,
    )


def held_out_loss(learner: LocalLearner, held_out: Sequence[TrainingSample]) -> float:
    """Cross-entropy in nats per demonstrated token."""
    logprobs = learner.forward(held_out)
    return -float(sum((lp * s.loss_weights).sum() for lp, s in zip(logprobs, held_out, strict=True)))

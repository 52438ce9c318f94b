"""Preference training: pairs of answers, the better one made likelier than the worse, by a row of `METHODS`.

    once          the weights w_t, and log pi_ref of every trained token under the policy that training starts from
    each step     scores = sum_t w_t (log pi - log pi_ref) -> loss, dL/dscore -> weighted likelihood by -dL/dscore

The gradient is exact: a score is linear in the logprobs, so dL/dtheta = sum of dL/dscore x w_t x dlog pi/dtheta, and
pairs need not go through the network together (`rl/preference.py`). The log-ratios of both sides are written at every
step: when both fall, the policy forgets how to say either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError
from flyball.metrics import measured
from flyball.models.hf_chat import HfChat
from flyball.rl.pairs import Answer, Pair, in_scope
from flyball.rl.preference import kto, mismatched_kl
from flyball.rl.preference_methods import PreferenceMethod, score_weights
from flyball.stats.intervals import mean_interval, proportion_interval
from flyball.train.fit import FitPlan, OnStep, Validate, fit
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.progress import Checkpoints, Progress
from flyball.train.sft import demonstration_sample, turns_of
from flyball.types import Estimate, Message, TrainingSample

Floats = npt.NDArray[np.float64]
Scored = tuple[TrainingSample, ...]
"""An answer ready to score: `loss_weights` are the w_t, `ref_logprobs` are there where the method has a reference."""


@dataclass(frozen=True)
class ReadyPair:
    """A pair with all that does not change while it is trained. `mismatched`: KTO's answers to another prompt."""

    task_id: str
    chosen: Scored
    rejected: Scored
    mismatched: tuple[Scored, Scored] | None = None


def answer_of_messages(
    chat: HfChat, given: Sequence[Message], said: Sequence[Message], tools: Sequence[dict[str, Any]]
) -> Answer:
    """What was said after `given` as an answer: only its assistant's turns are trained, as the policy would sample."""
    sample = demonstration_sample(chat, [*given, *said], tools)
    before = sum(message["role"] == "assistant" for message in given)
    turns = turns_of(np.asarray(chat.conversation([*given, *said], tools)[1], np.bool_)) - before
    mask = sample.loss_mask & (turns >= 0)
    return Answer((replace(sample, loss_mask=mask),), (np.where(mask, turns, -1),))


def prepare_pairs(
    pairs: Sequence[Pair], method: PreferenceMethod, params: Mapping[str, float], reference: LocalLearner
) -> list[ReadyPair]:
    """The pairs that the method can use, with weights and reference logprobs. `reference` is the policy at the start.

    Raises TrainError when none is left, and for KTO on a single task, which has no other prompt to estimate its KL by.
    """
    usable = [scoped for pair in pairs if (scoped := in_scope(pair, method.scope)) is not None]
    if not usable:
        raise TrainError(
            f"none of {len(pairs)} pairs can be trained by {method.name}: two answers must part in a turn of the "
            "policy, after the same beginning; use dpo or dmpo, or sample more attempts"
        )
    sides = [[_scored(answer, method, params) for answer in (pair.chosen, pair.rejected)] for pair in usable]
    others = _mismatched(usable, sides) if method.loss is None else [()] * len(usable)
    everything = [[*two, *more] for two, more in zip(sides, others, strict=True)]
    if method.reference:
        flat = [sample for row in everything for side in row for sample in side]
        known = iter(reference.forward(flat))
        everything = [[tuple(replace(s, ref_logprobs=next(known)) for s in side) for side in row] for row in everything]
    return [
        ReadyPair(pair.task_id, row[0], row[1], (row[2], row[3]) if len(row) == 4 else None)
        for pair, row in zip(usable, everything, strict=True)
    ]


def _scored(answer: Answer, method: PreferenceMethod, params: Mapping[str, float]) -> Scored:
    weights = score_weights(answer, method, params)
    return tuple(replace(s, loss_weights=w) for s, w in zip(answer.samples, weights, strict=True))


def _mismatched(pairs: Sequence[Pair], sides: Sequence[Sequence[Scored]]) -> list[tuple[Scored, Scored]]:
    """For each pair, the next pair's answers of another task after its own prompt: KTO's draw from pi_ref x prompts.

    TRL shifts the answers of a batch by one; here the shift is over all pairs, so that log pi_ref is computed once.
    """
    found = []
    for i, pair in enumerate(pairs):
        order = [(i + k) % len(pairs) for k in range(1, len(pairs))]
        other = next((j for j in order if pairs[j].task_id != pair.task_id), None)
        if other is None:
            raise TrainError("kto takes its KL from answers to other prompts, and all pairs are of one task; use dpo")
        found.append((_joined(sides[i][0], sides[other][0]), _joined(sides[i][1], sides[other][1])))
    return found


def _joined(prompt: Scored, answer: Scored) -> Scored:
    """The prompt of one answer with what another one sampled, from its first token on."""
    first, other = prompt[0], answer[0]
    begin, start = int(np.argmax(first.loss_mask)), int(np.argmax(other.loss_mask))

    def join(name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([getattr(first, name)[:begin], getattr(other, name)[start:]])

    names = ("token_ids", "loss_mask", "sampling_logprobs", "advantages", "loss_weights")
    return (TrainingSample(*(join(name) for name in names)),)  # type: ignore[arg-type]


def scores_of(learner: LocalLearner, answers: Sequence[Scored]) -> Floats:
    """The score [A] of every answer under the current weights."""
    flat = [sample for answer in answers for sample in answer]
    logprobs = iter(learner.forward(flat))
    return np.array([sum(_score(sample, next(logprobs)) for sample in answer) for answer in answers], np.float64)


def _score(sample: TrainingSample, logprobs: npt.NDArray[np.float32]) -> float:
    gained = logprobs if sample.ref_logprobs is None else logprobs - sample.ref_logprobs
    return float((sample.loss_weights * gained).sum(dtype=np.float64))


@dataclass(frozen=True)
class Compared:
    """The two scores of each pair, the loss of each pair, and its derivative by both. All [P]."""

    chosen: Floats
    rejected: Floats
    loss: Floats
    by_chosen: Floats
    by_rejected: Floats


def compare_pairs(
    learner: LocalLearner, pairs: Sequence[ReadyPair], method: PreferenceMethod, params: Mapping[str, float]
) -> Compared:
    """Score the pairs under the current weights. KTO's loss of a pair is the sum over its two answers."""
    both = scores_of(learner, [side for pair in pairs for side in (pair.chosen, pair.rejected)])
    chosen, rejected = both[::2], both[1::2]
    if method.loss is not None:
        return Compared(chosen, rejected, *method.loss_of(chosen, rejected, params))
    kl = mismatched_kl(scores_of(learner, [side for pair in pairs for side in pair.mismatched or ()]))
    weights = params["desirable"], params["undesirable"]
    yes, by_yes = kto(chosen, np.ones(len(chosen), np.bool_), kl, params["beta"], weights)
    no, by_no = kto(rejected, np.zeros(len(rejected), np.bool_), kl, params["beta"], weights)
    return Compared(chosen, rejected, yes + no, by_yes, by_no)


def trained_samples(pairs: Sequence[ReadyPair], compared: Compared) -> list[TrainingSample]:
    """What to train so that the gradient is that of the mean loss: -dL/dscore on every token, w_t / P as its weight."""
    out = []
    for pair, by_chosen, by_rejected in zip(pairs, compared.by_chosen, compared.by_rejected, strict=True):
        for side, by in ((pair.chosen, by_chosen), (pair.rejected, by_rejected)):
            for sample in side:
                push = np.where(sample.loss_mask, -by, 0).astype(np.float32)
                out.append(replace(sample, advantages=push, loss_weights=sample.loss_weights / np.float32(len(pairs))))
    return out


def pair_accuracy(chosen: Floats, rejected: Floats, tasks: Sequence[str]) -> Estimate:
    """Share of pairs whose chosen answer scores higher; a tie is half right. Pairs of a task are a cluster."""
    right = np.where(chosen == rejected, 0.5, chosen > rejected)
    return proportion_interval(right, clusters=list(tasks))


async def run_preference(
    learner: LocalLearner,
    pairs: Sequence[ReadyPair],
    held_out: Sequence[ReadyPair],
    method: PreferenceMethod,
    params: Mapping[str, float],
    plan: FitPlan,
    checkpoints: Checkpoints,
    *,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    validate: Validate | None = None,
) -> Progress:
    """Train on `pairs`; see `fit`. Held-out pairs give a curve of accuracy with its interval."""

    def learn(rows: Sequence[int], lr_scale: float) -> Mapping[str, float]:
        batch = [pairs[i] for i in rows]
        compared = compare_pairs(learner, batch, method, params)
        learner.forward_backward(trained_samples(batch, compared), LossSpec("weighted_likelihood"))
        return {
            "preference_loss": float(compared.loss.mean()),
            "chosen_score": float(compared.chosen.mean()),
            "rejected_score": float(compared.rejected.mean()),
            "grad_norm": learner.optim_step(lr_scale)["grad_norm"],
        }

    def judge() -> tuple[float, Mapping[str, float]]:
        compared = compare_pairs(learner, held_out, method, params)
        tasks = [pair.task_id for pair in held_out]
        loss = mean_interval(compared.loss, clusters=tasks)
        accuracy = pair_accuracy(compared.chosen, compared.rejected, tasks)
        return -loss.value, measured("preference_validation_loss", loss) | measured("preference_accuracy", accuracy)

    return await fit(
        plan,
        checkpoints,
        learn,
        num_rows=len(pairs),
        on_step=on_step,
        should_stop=should_stop,
        judge=judge if held_out else None,
        validate=validate,
    )

"""Preference training on a tiny policy: the gradient is exact, every method learns, and a kill changes nothing."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flyball.errors import TrainError
from flyball.models.hf_chat import HfChat
from flyball.rl.pairs import Answer, Pair
from flyball.rl.preference_methods import METHODS, preference_method
from flyball.train.fit import FitPlan
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.preference import (
    ReadyPair,
    answer_of_messages,
    compare_pairs,
    pair_accuracy,
    prepare_pairs,
    run_preference,
    trained_samples,
)
from flyball.train.progress import Checkpoints, Progress
from flyball.types import TrainingSample
from tests.train.small import TOKENIZER, VOCAB, same_weights, small_learner

GOOD, BAD = 7, 11
"""The token that a good answer ends with, and that of a bad one."""


def answer(prompt: list[int], said: list[int]) -> Answer:
    ids = np.array([*prompt, *said], np.int64)
    mask = np.arange(len(ids)) >= len(prompt)
    zeros = np.zeros(len(ids), np.float32)
    return Answer((TrainingSample(ids, mask, zeros, zeros, zeros),), (np.where(mask, 0, -1),))


def pairs(n: int = 12) -> list[Pair]:
    """One pair for each of n tasks: after any prompt, GOOD is better than BAD."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        prompt = rng.integers(20, VOCAB, 4).tolist()
        made.append(Pair(f"task-{i}", answer(prompt, [5, GOOD]), answer(prompt, [5, BAD]), 1.0, "test"))
    return made


def ready(name: str, learner: LocalLearner, **chosen: float) -> tuple[list[ReadyPair], dict[str, float]]:
    row = preference_method(name)
    params = row.settings(chosen)
    return prepare_pairs(pairs(), row, params, learner), params


def train(
    folder: Path, name: str, stop_at: int | None = None, steps: int = 12
) -> tuple[LocalLearner, Progress, list[dict[str, float]]]:
    learner, shown = small_learner(lr=3e-3), list[dict[str, float]]()
    prepared, params = ready(name, learner)
    plan = FitPlan(steps, batch_size=4, seed=1, validate_every=4, warmup_steps=1)
    done = asyncio.run(
        run_preference(
            learner,
            prepared[2:],
            prepared[:2],
            preference_method(name),
            params,
            plan,
            Checkpoints(folder, learner),
            on_step=lambda step, total, metrics: shown.append(dict(metrics)),
            should_stop=lambda: len(shown) == stop_at,
        )
    )
    return learner, done, shown


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_which_answer_is_better(name: str, tmp_path: Path) -> None:
    _learner, done, shown = train(tmp_path, name)
    assert done.step == 12
    assert shown[-1]["preference_loss"] < shown[0]["preference_loss"]
    assert (
        shown[-1]["chosen_score"] - shown[-1]["rejected_score"] > shown[0]["chosen_score"] - shown[0]["rejected_score"]
    )
    assert shown[-1]["preference_accuracy"] == 1.0 and shown[-1]["preference_accuracy/n"] == 2
    assert shown[-1]["preference_accuracy/low"] < 1.0


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.loss is not None])
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    """A small step along the gradient changes the mean loss by step x norm. (KTO's KL has no part in it.)"""
    torch.manual_seed(0)
    learner = small_learner()
    prepared, params = ready(name, learner)
    other = small_learner(seed=3)  # away from the reference, where the two scores differ
    row = preference_method(name)

    def loss() -> float:
        found = compare_pairs(other, prepared, row, params)
        return float(found.loss.mean())

    compared = compare_pairs(other, prepared, row, params)
    other.forward_backward(trained_samples(prepared, compared), LossSpec("weighted_likelihood"))
    gradient = [p.grad.clone() for p in other.model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradient))
    h = 1e-3
    values = []
    for sign in (h, -2 * h):
        with torch.no_grad():
            for p, g in zip((p for p in other.model.parameters() if p.grad is not None), gradient, strict=True):
                p += sign * g / norm
        values.append(loss())
    assert norm > 0 and (values[0] - values[1]) / (2 * h) == pytest.approx(norm, rel=0.02)


def test_at_the_start_nothing_is_preferred() -> None:
    """Log-ratios to the reference are 0: the loss of DPO is ln 2, and every tie is half right."""
    learner = small_learner()
    prepared, params = ready("dpo", learner)
    compared = compare_pairs(learner, prepared, preference_method("dpo"), params)
    assert compared.loss == pytest.approx(np.full(12, math.log(2)))
    found = pair_accuracy(compared.chosen, compared.rejected, [p.task_id for p in prepared])
    assert (found.value, found.n) == (0.5, 12)


def test_a_stopped_run_ends_at_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    whole, _done, _shown = train(tmp_path / "whole", "dpo", steps=6)
    train(tmp_path / "cut", "dpo", stop_at=3, steps=6)
    again, done, shown = train(tmp_path / "cut", "dpo", steps=6)
    assert (done.step, len(shown)) == (6, 3)
    assert same_weights(whole.snapshot(), again.snapshot()), "the reference is the start, not the checkpoint"


def test_kto_needs_another_prompt() -> None:
    row = preference_method("kto")
    alone = [Pair("same", p.chosen, p.rejected, 1.0, "test") for p in pairs(3)]
    with pytest.raises(TrainError, match="all pairs are of one task"):
        prepare_pairs(alone, row, row.settings({}), small_learner())


def test_pairs_that_no_turn_parts_are_refused_by_step_dpo() -> None:
    row = preference_method("step_dpo")
    apart = [Pair("t", answer([1], [GOOD]), answer([2], [BAD]), 1.0, "test")]
    with pytest.raises(TrainError, match="none of 1 pairs can be trained by step_dpo"):
        prepare_pairs(apart, row, row.settings({}), small_learner())


def test_only_what_was_said_after_the_prompt_is_trained() -> None:
    chat = HfChat(TOKENIZER)
    given: list[dict[str, Any]] = [
        {"role": "user", "content": "desk?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "sure?"},
    ]
    found = answer_of_messages(chat, given, [{"role": "assistant", "content": "no"}], ())
    sample = found.samples[0]
    assert TOKENIZER.decode(sample.token_ids[sample.loss_mask]) == "no<|end|>"
    assert found.num_turns == 1

"""Reward models in miniature: pairs, outcomes and steps are learned, calibrated on tasks held out, saved and loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.errors import ModelError, TrainError
from flyball.models.reward_head import Facts, RewardModel, load_reward_model, save_reward_model
from flyball.train.fit import FitPlan
from flyball.train.progress import Checkpoints, Progress
from flyball.train.reward_model import RewardLearner, RewardRow, Talk, accuracy_of, calibrate, run_reward_model
from tests.train.small import TOKENIZER, VOCAB, same_weights

GOOD, BAD = 7, 11


def new_learner(seed: int = 0, lr: float = 3e-3) -> RewardLearner:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return RewardLearner(RewardModel(LlamaForCausalLM(config)), TOKENIZER, lr)


def talk(rng: np.random.Generator, *said: int) -> Talk:
    """A prompt of random length, then what was said; the score is asked for at its end."""
    ids = [*rng.integers(20, VOCAB, int(rng.integers(2, 6))).tolist(), *said]
    return Talk(tuple(ids), (len(ids) - 1,))


def pair_rows(n: int = 40, noise: float = 0.0) -> list[RewardRow]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        good, bad = talk(rng, 5, GOOD), talk(rng, 5, BAD)
        rows.append(RewardRow(f"task-{i}", *((bad, good) if rng.random() < noise else (good, bad))))
    return rows


def train(
    folder: Path, rows: list[RewardRow], steps: int = 20, stop_at: int | None = None
) -> tuple[RewardLearner, Progress]:
    learner, seen = new_learner(), list[int]()
    plan = FitPlan(steps, batch_size=8, seed=1, validate_every=10, warmup_steps=1)
    done = asyncio.run(
        run_reward_model(
            learner,
            rows[10:],
            rows[:10],
            plan,
            Checkpoints(folder, learner),
            on_step=lambda step, total, metrics: seen.append(step),
            should_stop=lambda: len(seen) == stop_at,
        )
    )
    return learner, done


def test_pairs_teach_which_answer_is_better(tmp_path: Path) -> None:
    learner, done = train(tmp_path, pair_rows())
    rows = pair_rows()[:10]
    scores = learner.scores([t for row in rows for t in (row.talk, row.worse) if t is not None])
    found = accuracy_of(rows, scores)
    assert (done.step, found.value, found.n) == (20, 1.0, 10) and found.low < 1.0


def test_labels_teach_a_probability_at_every_place(tmp_path: Path) -> None:
    """A step that says GOOD is worth 0.8 and one that says BAD 0.1, in the middle of a talk or at its end."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        said = [GOOD if rng.random() < 0.5 else BAD for _ in range(2)]
        start = talk(rng, said[0])
        ids = (*start.token_ids, 5, said[1])
        labels = tuple(0.8 if token == GOOD else 0.1 for token in said)
        rows.append(RewardRow(f"task-{i}", Talk(ids, (len(start.token_ids) - 1, len(ids) - 1)), labels=labels))
    learner, _done = train(tmp_path, rows, steps=60)
    found = np.concatenate(learner.scores([row.talk for row in rows[:10]]))
    wanted = np.concatenate([row.labels for row in rows[:10]])
    assert np.abs(1 / (1 + np.exp(-found)) - wanted).max() < 0.2


def test_the_gradient_is_that_of_the_loss() -> None:
    learner = new_learner(lr=0.0)
    rows = pair_rows(6)
    learner.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    both = [t for row in rows for t in (row.talk, row.worse) if t is not None]
    scores = learner.model([t.token_ids for t in both], [t.places for t in both])
    loss = torch.nn.functional.softplus(-(scores[::2] - scores[1::2])).mean()
    (wanted,) = torch.autograd.grad(loss, learner.model.head.weight)
    kept: list[torch.Tensor] = []
    learner.model.head.weight.register_hook(lambda grad: kept.append(grad.clone()))
    assert learner.update(rows)["reward_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(kept[0], wanted, rtol=1e-4, atol=1e-6)


def test_padding_changes_no_score() -> None:
    learner = new_learner()
    learner.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    talks = [talk(rng, *[5] * n) for n in (1, 9, 3)]
    together, alone = learner.scores(talks), [learner.scores([t])[0] for t in talks]
    assert np.concatenate(together) == pytest.approx(np.concatenate(alone), abs=1e-5)


def test_noise_in_the_labels_shows_in_the_calibration(tmp_path: Path) -> None:
    """Three in ten pairs are turned round: a model that learned the rule is sure, its temperature is not."""
    rows = pair_rows(400, noise=0.3)
    learner, _done = train(tmp_path, [*rows[:10], *pair_rows(60)[10:]])
    sure = calibrate(learner, pair_rows(40), "pairs", seed=0)
    unsure = calibrate(learner, rows, "pairs", seed=0)
    assert unsure.facts.temperature > 5 * sure.facts.temperature
    assert sure.accuracy.value == 1.0 and 0.5 < unsure.accuracy.value < 0.9
    assert unsure.accuracy.low < unsure.accuracy.value < unsure.accuracy.high
    assert unsure.error.value < 0.15 and sum(part.came_true.n for part in unsure.curve) == unsure.accuracy.n


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", pair_rows(), steps=6)
    train(tmp_path / "cut", pair_rows(), steps=6, stop_at=2)
    again, done = train(tmp_path / "cut", pair_rows(), steps=6)
    assert done.step == 6 and same_weights(whole.model.state_dict(), again.model.state_dict())


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    learner, _ = train(tmp_path / "run", pair_rows(), steps=4)
    learner.model.facts = Facts("pairs", 2.0, 0.5)
    digest = save_reward_model(learner.model, TOKENIZER, tmp_path / "model")
    scorer = load_reward_model(tmp_path / "model")
    messages = [{"role": "user", "content": "desk?"}, {"role": "assistant", "content": "desk"}]
    ids, places = scorer.encode(messages)
    learner.model.eval()
    assert scorer.scores(messages) == pytest.approx(learner.scores([Talk(tuple(ids), tuple(places))])[0].tolist())
    assert scorer.probability(0.5) == 0.5 and scorer.probability(2.5) == pytest.approx(1 / (1 + np.exp(-1)))
    assert digest != save_reward_model(new_learner().model, TOKENIZER, tmp_path / "other")


def test_what_cannot_be_learned_or_judged_is_refused(tmp_path: Path) -> None:
    one = pair_rows(1)[0]
    with pytest.raises(TrainError, match="0 labels for 1 places"):
        RewardRow("t", one.talk)
    with pytest.raises(TrainError, match="from 0 to 1"):
        RewardRow("t", one.talk, labels=(1.5,))
    with pytest.raises(TrainError, match="calibration needs two"):
        calibrate(new_learner(), [one, one], "pairs", 0)
    with pytest.raises(TrainError, match="scores every held-out pair alike"):
        calibrate(new_learner(), pair_rows(4), "pairs", 0)
    with pytest.raises(ModelError, match="holds no reward model"):
        load_reward_model(tmp_path)

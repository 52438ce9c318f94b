"""Reward models in miniature: pairs, outcomes and steps are learned, calibrated on tasks held out, saved and loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.errors import ModelError, TrainError
from flyball.models.reward_head import (
    Facts,
    ImplicitRewardModel,
    RewardModel,
    Talk,
    encode_turns,
    load_reward_model,
    save_reward_model,
)
from flyball.train.fit import FitPlan
from flyball.train.progress import Checkpoints, Progress
from flyball.train.reward_model import RewardLearner, RewardRow, accuracy_of, calibrate, run_reward_model
from tests.train.small import TOKENIZER, VOCAB, same_weights

GOOD, BAD = 7, 11


def new_learner(seed: int = 0, lr: float = 3e-3) -> RewardLearner:
    return RewardLearner(RewardModel(new_body(seed)), TOKENIZER, lr)


def new_body(seed: int = 0) -> LlamaForCausalLM:
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
    return LlamaForCausalLM(config)


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
    folder: Path, rows: list[RewardRow], steps: int = 20, stop_at: int | None = None, implicit: bool = False
) -> tuple[RewardLearner, Progress]:
    learner, seen = new_implicit() if implicit else new_learner(), list[int]()
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
    scores = learner.model(both)
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


def new_implicit(seed: int = 0, lr: float = 1e-2) -> RewardLearner:
    model = ImplicitRewardModel(new_body(seed), new_body(seed), Facts("implicit", beta=0.5))
    return RewardLearner(model, TOKENIZER, lr)


def spoken(rng: np.random.Generator, *said: int, label: float) -> RewardRow:
    """A talk with all of its said tokens marked, and its outcome."""
    one = talk(rng, *said)
    before = len(one.token_ids) - len(said)
    marked = Talk(one.token_ids, one.places, (False,) * before + (True,) * len(said))
    return RewardRow(f"task-{rng.integers(10**6)}", marked, labels=(label,))


def test_an_implicit_score_is_the_sum_of_log_ratios_of_what_was_said() -> None:
    """beta sum log pi_phi/pi_ref over said tokens, by hand from the logits of both; 0 while the two are equal."""
    learner, rng = new_implicit(), np.random.default_rng(0)
    rows = [spoken(rng, 5, GOOD, label=1.0), spoken(rng, 5, 6, 8, BAD, label=0.0)]
    assert np.concatenate(learner.scores([row.talk for row in rows])) == pytest.approx([0.0, 0.0], abs=1e-6)
    learner.update(rows)
    (found,) = learner.scores(
        [Talk(rows[1].talk.token_ids, (len(rows[1].talk.token_ids) - 3, rows[1].talk.places[0]), rows[1].talk.said)]
    )
    ids = torch.tensor([rows[1].talk.token_ids])
    ratios = [
        body(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        for body in (learner.model.body, learner.model.reference)
    ]
    each = 0.5 * (ratios[0] - ratios[1]).detach().numpy()[-4:]
    assert found == pytest.approx([each[:2].sum(), each.sum()], abs=1e-5), "after two of four tokens, and at the end"
    assert abs(found[1]) > 1e-3, "it moved"


def test_an_implicit_model_learns_outcomes_and_its_steps_say_where(tmp_path: Path) -> None:
    """The second of three tokens decides: the first, the same in all talks, tells the won from the lost by nothing."""
    rng = np.random.default_rng(1)
    rows = [spoken(rng, 5, GOOD if i % 2 else BAD, 6, label=float(i % 2)) for i in range(60)]
    learner, done = train(tmp_path / "run", rows, steps=40, implicit=True)
    fresh = [spoken(rng, 5, GOOD if i % 2 else BAD, 6, label=float(i % 2)) for i in range(80)]
    assert accuracy_of(fresh, learner.scores([row.talk for row in fresh])).value > 0.95
    ends = [len(row.talk.token_ids) for row in fresh]
    each = [Talk(r.talk.token_ids, tuple(range(n - 3, n)), r.talk.said) for r, n in zip(fresh, ends, strict=True)]
    steps = np.diff(np.stack(learner.scores(each)), axis=1, prepend=0.0)
    told = steps[1::2].mean(0) - steps[::2].mean(0)
    assert told[1] > 3 * abs(told[0]), told
    scorer = load_reward_model(Checkpoints(tmp_path / "run", learner).best(done))
    assert isinstance(scorer.model, ImplicitRewardModel) and scorer.model.facts.kind == "implicit"
    assert same_weights(scorer.model.reference.state_dict(), new_body().state_dict())
    found = calibrate(RewardLearner(scorer.model, TOKENIZER, 0.0), fresh, "implicit", seed=0)
    assert found.facts.beta == 0.5 and found.accuracy.value > 0.95


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
    learner.model.eval()
    assert scorer.scores(messages) == pytest.approx(learner.scores([encode_turns(scorer.chat, messages)])[0].tolist())
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

"""Supervised fine-tuning: what is seen, what is kept, and what is left when it ends before its last step."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.errors import DatasetError, TrainError
from flyball.models.hf_chat import HfChat
from flyball.models.load import load_model
from flyball.train import progress as progress_module
from flyball.train.fit import FitPlan, batch_at
from flyball.train.learner import LocalLearner
from flyball.train.progress import Checkpoints, Progress
from flyball.train.sft import demonstration_sample, run_sft, weighted_mean
from flyball.types import Estimate, TrainingSample
from tests.train.small import TOKENIZER, VOCAB, Killed, same_weights, small_learner, validated

PLAN = FitPlan(num_steps=6, batch_size=4, seed=7, validate_every=2, warmup_steps=2)


def samples(n: int = 10, seed: int = 0) -> list[TrainingSample]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        tokens = rng.integers(0, VOCAB, 8 + i % 3)
        mask = np.arange(len(tokens)) >= 4
        zeros = np.zeros(len(tokens), np.float32)
        made.append(TrainingSample(tokens, mask, zeros, zeros, mask.astype(np.float32)))
    return made


def go(folder: Path, learner: LocalLearner, plan: FitPlan = PLAN, **changes: Any) -> Progress:
    settings: dict[str, Any] = {"on_step": lambda *_: None, "should_stop": lambda: False} | changes
    held_out = settings.pop("held_out", samples(4, seed=1))
    data = settings.pop("data", samples())
    return asyncio.run(run_sft(learner, data, held_out, plan, Checkpoints(folder, learner), **settings))


# --- what is seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 7), (3, 8), (16, 1)])
def test_every_epoch_covers_every_sample_once(n: int, size: int) -> None:
    seen = [i for step in range(3 * n) for i in batch_at(n, size, 5, step)]
    epochs = [seen[e * n : (e + 1) * n] for e in range(len(seen) // n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert all(len(batch_at(n, size, 5, step)) == size for step in range(9))


def test_epochs_and_seeds_differ_and_a_step_is_always_the_same() -> None:
    assert batch_at(40, 40, 5, 0) != batch_at(40, 40, 5, 1)
    assert batch_at(40, 40, 5, 0) != batch_at(40, 40, 6, 0)
    assert batch_at(40, 16, 5, 3) == batch_at(40, 16, 5, 3)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="nothing to train on"):
        go(tmp_path, small_learner(), data=[])


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    plan = FitPlan(num_steps=100, batch_size=1, seed=0, validate_every=1, warmup_steps=20)
    scales = [plan.lr_scale(Progress(step=step)) for step in range(100)]
    assert scales[0] == pytest.approx(1 / 20)
    assert max(scales) <= 1.0 and scales.index(max(scales)) == 19
    assert plan.lr_scale(Progress(step=100)) == pytest.approx(0.1)
    timed = replace(plan, max_seconds=60.0)
    assert timed.lr_scale(Progress(step=50, seconds=60.0)) == pytest.approx(0.1)


def test_only_the_assistants_tokens_of_a_demonstration_are_trained() -> None:
    chat = HfChat(TOKENIZER)
    messages = [
        {"role": "user", "content": "desk?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "no"},
    ]
    sample = demonstration_sample(chat, messages, ())
    assert TOKENIZER.decode(sample.token_ids[sample.loss_mask]) == "yes<|end|>no<|end|>"
    assert TOKENIZER.decode(sample.token_ids[~sample.loss_mask]).count("?") == 2


def test_a_message_counts_by_its_weight() -> None:
    """By hand: weights 2, 0 and 0.5 of turns; the mean over tokens is weighted, so a common factor changes nothing."""
    chat = HfChat(TOKENIZER)
    messages = [
        {"role": "user", "content": "desk?"},
        {"role": "assistant", "content": "yes", "weight": 2},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "no", "weight": 0},
        {"role": "user", "content": "desk?"},
        {"role": "assistant", "content": "yes", "weight": 0.5},
    ]
    sample = demonstration_sample(chat, messages, ())
    assert TOKENIZER.decode(sample.token_ids[sample.loss_mask]) == "yes<|end|>yes<|end|>"
    half = int(sample.loss_mask.sum()) // 2
    assert sample.loss_weights[sample.loss_mask].tolist() == [2.0] * half + [0.5] * half
    (mean,) = weighted_mean([sample])
    assert mean.loss_weights.sum() == pytest.approx(1.0)
    assert mean.loss_weights[sample.loss_mask][0] == pytest.approx(2.0 / (2.5 * half))
    doubled = [{**m, "weight": 2 * m.get("weight", 1)} for m in messages]
    (again,) = weighted_mean([demonstration_sample(chat, doubled, ())])
    np.testing.assert_allclose(again.loss_weights, mean.loss_weights, rtol=1e-6)


def asked_and_answered(weight: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "desk?"}, {"role": "assistant", "content": "yes", "weight": weight}]


@pytest.mark.parametrize("weight", [-1, True, "2", float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(DatasetError, match="a number from 0 up"):
        demonstration_sample(HfChat(TOKENIZER), asked_and_answered(weight), ())


def test_conversations_without_any_weight_are_refused() -> None:
    silent = demonstration_sample(HfChat(TOKENIZER), asked_and_answered(0), ())
    with pytest.raises(TrainError, match="every message of them has weight 0"):
        weighted_mean([silent])


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_demonstrations_become_likelier_and_the_best_held_out_loss_is_kept(tmp_path: Path) -> None:
    learner, losses = small_learner(), {}

    def on_step(step: int, total: int, metrics: Any) -> None:
        if "sft_validation_loss" in metrics:
            losses[step] = metrics["sft_validation_loss"]

    done = go(tmp_path, learner, held_out=samples(), on_step=on_step)
    assert losses.keys() == {2, 4, 6}
    assert losses[6] < losses[2]
    assert (done.best, done.best_step) == (-min(losses.values()), 6)
    assert same_weights(load_model(Checkpoints(tmp_path, learner).best(done)).state_dict(), learner.snapshot())


def test_success_picks_the_checkpoint_and_ties_go_to_the_later(tmp_path: Path) -> None:
    learner, kept = small_learner(), []
    values = iter([0.5, 0.5, 0.25])

    async def validate() -> Estimate:
        kept.append(learner.snapshot())
        return validated(next(values))

    done = go(tmp_path, learner, validate=validate)
    assert (done.best, done.best_step) == (0.5, 4)
    best = load_model(Checkpoints(tmp_path, learner).best(done)).state_dict()
    assert same_weights(best, kept[1]) and not same_weights(best, kept[0]) and not same_weights(best, kept[2])


def test_with_nothing_to_pick_by_the_last_is_the_best(tmp_path: Path) -> None:
    shown: Counter[str] = Counter()
    done = go(tmp_path, small_learner(), held_out=[], on_step=lambda s, t, metrics: shown.update(metrics))
    assert done.best_step == 6
    assert "sft_validation_loss" not in shown, "a loss over nothing is no number to show"


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    done = go(tmp_path, small_learner(), held_out=samples())
    assert {path.name for path in tmp_path.iterdir()} == {"step-6", f"best-{done.best_step}"}
    assert {path.name for path in (tmp_path / "step-6").iterdir()} == {"learner.pt", "progress.json"}


# --- ends before the last step ---------------------------------------------------------------------------------------


def test_stopped_and_resumed_it_is_as_if_unbroken(tmp_path: Path) -> None:
    unbroken, first, second = small_learner(), small_learner(), small_learner(seed=99)
    whole = go(tmp_path / "whole", unbroken)
    steps: list[int] = []
    stopped = go(tmp_path / "two", first, on_step=lambda s, *_: steps.append(s), should_stop=lambda: len(steps) == 3)
    assert (stopped.step, stopped.stopped_early) == (3, "")
    done = go(tmp_path / "two", second, on_step=lambda s, *_: steps.append(s))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert same_weights(unbroken.snapshot(), second.snapshot())
    assert (done.best, done.best_step) == (whole.best, whole.best_step)


@pytest.mark.parametrize("every_step", [True, False])
def test_killed_while_saving_it_resumes_from_what_fits_together(
    tmp_path: Path, every_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner's state of step 4 is there, the record still says step 3 (or nothing): the record wins."""
    monkeypatch.setattr(progress_module, "MAX_SHARE", 0 if every_step else 1e9)
    unbroken, killed, resumed = small_learner(), small_learner(), small_learner(seed=99 if every_step else 0)
    go(tmp_path / "whole", unbroken)
    save = killed.save

    def save_and_die(path: Path) -> None:
        save(path)
        if path.name == "step-4" or not every_step:
            raise Killed

    monkeypatch.setattr(killed, "save", save_and_die)
    with pytest.raises(Killed):
        go(tmp_path / "killed", killed)
    done = go(tmp_path / "killed", resumed)
    assert done.step == 6 and same_weights(unbroken.snapshot(), resumed.snapshot())


def test_killed_while_publishing_the_best_it_is_published_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "MAX_SHARE", 0)
    killed, resumed = small_learner(), small_learner(seed=99)

    def half_publish(path: Path) -> None:
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(killed, "publish", half_publish)
    with pytest.raises(Killed):
        go(tmp_path, killed)
    done = go(tmp_path, resumed, held_out=samples())
    assert same_weights(load_model(Checkpoints(tmp_path, resumed).best(done)).state_dict(), resumed.snapshot())


def test_time_that_is_up_ends_it_with_a_validated_policy_and_for_good(tmp_path: Path) -> None:
    plan = FitPlan(num_steps=1000, batch_size=2, seed=0, validate_every=1000, max_seconds=0.0)
    done = go(tmp_path, small_learner(), plan)
    assert (done.step, done.best_step) == (1, 1)
    assert "minutes are up" in done.stopped_early
    assert go(tmp_path, small_learner(), plan).step == 1, "what ended is not taken up again"

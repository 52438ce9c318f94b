"""What attempts and networks may hand to an update, and must not break: refused by name, or handled as documented."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flyball.errors import Fault, StoreError, TrainError
from flyball.rl.algorithms import ALGORITHMS, algorithm
from flyball.rl.samples import attempt_samples, rewarded_samples, samples_from_groups
from flyball.train.learner import LossSpec
from flyball.train.progress import Checkpoints, Progress
from flyball.train.update import update
from flyball.types import GradedAttempt, Missing, TrainingSample
from tests.train.small import same_weights, small_learner
from tests.train.test_rl import PLAN, TASKS, at, graded

BROKEN = Missing("the grader raised", Fault.GRADER)
COMPARING = [row.name for row in ALGORITHMS.values() if row.compares_groups and not row.greedy_baseline]


def group(*rewards: float | Missing) -> list[GradedAttempt]:
    draw = np.random.default_rng(0)
    return [graded(TASKS[0], reward, draw) for reward in rewards]


def with_calls(one: GradedAttempt, **changes: Any) -> GradedAttempt:
    trajectory = one.attempt.trajectory
    calls = tuple(replace(call, **changes) for call in trajectory.calls)
    return replace(one, attempt=replace(one.attempt, trajectory=replace(trajectory, calls=calls)))


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("rewards", [(1.0, 1.0, 1.0), (BROKEN, BROKEN), (BROKEN, 1.0), (1.0,)], ids=str)
def test_equal_rewards_missing_scores_and_a_group_of_one_teach_nothing(name: str, rewards: tuple) -> None:
    """With equal rewards nothing is compared; a group of which one attempt has a reward is a group of one."""
    row = algorithm(name)
    horizon = 8 if row.loss_agg_mode == "seq-mean-token-sum-norm" else None
    signal = samples_from_groups([group(*rewards)], row, horizon)
    assert signal.samples == () and signal.num_zero_variance == 1
    assert signal.num_missing == sum(isinstance(r, Missing) for r in rewards)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused_by_name_and_the_weights_stay(reward: float) -> None:
    learner, batch = small_learner(), [group(reward, 0.0)]
    before = learner.snapshot()
    with pytest.raises(TrainError, match=f"{batch[0][0].attempt.attempt_id}.*only finite numbers"):
        update(learner, small_learner(), batch, PLAN, at(0))
    assert same_weights(before, learner.snapshot()) and learner.version == 0


def test_an_empty_completion_is_compared_and_trains_nothing() -> None:
    learner, (good, bad) = small_learner(), group(1.0, 0.0)
    silent = with_calls(bad, completion_ids=(), sampling_logprobs=(), policy_versions=())
    signal = samples_from_groups([[good, silent]], algorithm("rloo"))
    (sample,) = signal.samples
    assert (sample.attempt_id, sample.advantages[-1]) == (good.attempt.attempt_id, 1.0)
    assert update(learner, small_learner(), [[good, silent]], PLAN, at(0))["trained_tokens"] == 6
    both = [with_calls(g, completion_ids=(), sampling_logprobs=(), policy_versions=()) for g in (good, bad)]
    assert "trained_tokens" not in update(learner, small_learner(), [both], PLAN, at(0)), "there is nothing to train"
    assert learner.version == 1


def test_a_mask_of_zeros_has_no_weight_and_no_gradient() -> None:
    learner, (one, two) = small_learner(), samples_from_groups([group(1.0, 0.0)], algorithm("rloo")).samples
    n = len(two.token_ids)
    masked = replace(two, loss_mask=np.zeros(n, np.bool_), loss_weights=np.zeros(n, np.float32))
    spec = LossSpec("policy", algorithm("rloo").loss_params(0.0))
    alone, beside = (learner.forward_backward(batch, spec) for batch in ([one], [one, masked]))
    assert alone["trained_tokens"] == beside["trained_tokens"] == 6
    assert alone["loss"] == pytest.approx(beside["loss"])


@pytest.mark.parametrize("logprob", [math.inf, -math.inf, math.nan, 0.5, -2000.0])
def test_logprobs_that_nothing_was_sampled_with_are_refused(logprob: float) -> None:
    good, bad = group(1.0, 0.0)
    wrong = with_calls(bad, sampling_logprobs=(-1.0, logprob, -1.0, -1.0, -1.0, -1.0))
    with pytest.raises(TrainError, match=f"{bad.attempt.attempt_id}.*no usable logprob"):
        samples_from_groups([[good, wrong]], algorithm("rloo"))


def test_tokens_of_an_adapter_are_not_trained_as_the_policys() -> None:
    good, bad = group(1.0, 0.0)
    other = with_calls(bad, sampling={"temperature": 1.0, "adapter": "desk", "adapter_version": "d1"})
    (sample,) = samples_from_groups([[good, other]], algorithm("rloo")).samples
    assert sample.attempt_id == good.attempt.attempt_id and sample.loss_mask.sum() == 6
    assert attempt_samples(other), "their text may be imitated"

    own = replace(bad.attempt.trajectory.calls[0], call_id="own", parent_id=other.attempt.trajectory.calls[0].call_id)
    both = replace(other.attempt.trajectory, calls=(*other.attempt.trajectory.calls, own))
    mixed = replace(other, attempt=replace(other.attempt, trajectory=both))
    for made in (attempt_samples(mixed, np.array([3.0, -1.0])), rewarded_samples(mixed)):
        assert [sample.loss_mask.nonzero()[0].tolist() for sample in made] == [[18, 19, 20, 21, 22, 23]]
    (sample,) = attempt_samples(mixed, np.array([3.0, -1.0]))
    assert set(sample.advantages[sample.loss_mask]) == {-1.0} and not sample.advantages[:18].any()


def test_lengths_that_differ_are_refused_where_they_arise() -> None:
    good, _bad = group(1.0, 0.0)
    with pytest.raises(ValueError, match="6 sampled tokens, 5 logprobs"):
        with_calls(good, sampling_logprobs=(-1.0,) * 5)
    (sample,) = attempt_samples(good)
    with pytest.raises(ValueError, match="advantages has 3 of 12 tokens"):
        replace(sample, advantages=np.zeros(3, np.float32))


# --- never a weight that is no number on disk ------------------------------------------------------------------------


def broken_learner() -> Any:
    learner = small_learner()
    with torch.no_grad():
        learner.model.get_input_embeddings().weight[3, 2] = math.nan
    return learner


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Whatever is written meanwhile meets the error of a full disk after so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    learner = small_learner()
    checkpoints = Checkpoints(tmp_path, learner)
    checkpoints.save(Progress(step=1), force=True)
    learner.version = 2
    with files_of_at_most(2000):
        with pytest.raises(StoreError, match=r"step-2 cannot be written \(.*MB are free there.*then resume"):
            checkpoints.save(Progress(step=2), force=True)
        with pytest.raises(StoreError, match=r"publishing cannot be written \(.*then resume"):
            checkpoints.keep_best(Progress(step=2), 1.0)
    assert Checkpoints(tmp_path, learner).resume().step == 1 and learner.version == 0


def test_a_checkpoint_with_nan_is_refused_and_the_one_before_stays(tmp_path: Path) -> None:
    whole, broken = small_learner(), broken_learner()
    Checkpoints(tmp_path, whole).save(Progress(step=1), force=True)
    with pytest.raises(TrainError, match=r"1 of 4800 weights of model.embed_tokens.weight are not finite"):
        Checkpoints(tmp_path, broken).save(Progress(step=2), force=True)
    assert not (tmp_path / "step-2").exists()
    again = small_learner(seed=5)
    assert Checkpoints(tmp_path, again).resume().step == 1 and same_weights(again.snapshot(), whole.snapshot())


def test_a_policy_with_nan_is_never_published(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="not finite"):
        Checkpoints(tmp_path, broken_learner()).keep_best(Progress(), 1.0)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_step_on_weights_that_are_nan_is_dropped() -> None:
    learner = broken_learner()
    samples: list[TrainingSample] = list(samples_from_groups([group(1.0, 0.0)], algorithm("rloo")).samples)
    touched = [replace(s, token_ids=np.full_like(s.token_ids, 3)) for s in samples]
    with pytest.raises(TrainError, match="the step was dropped"):
        learner.forward_backward(touched, LossSpec("policy", algorithm("rloo").loss_params(0.0)))
    assert all(p.grad is None for p in learner.model.parameters()) and learner.version == 0

"""Advantages against numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flyball.rl.advantage import (
    Rewards,
    dr_grpo_advantages,
    grpo_advantages,
    has_signal,
    pass_k_advantages,
    remax_advantages,
    rloo_advantages,
)

ESTIMATORS = (grpo_advantages, dr_grpo_advantages, rloo_advantages, pass_k_advantages)

# R = [1, 0, 0, 1]: mean 1/2, std with G-1 is sqrt(1/3) = 0.577350; (1/2) / (0.577350 + 1e-6) = 0.866024
# R = [1, 0, 0, 0]: mean 1/4, std with G-1 is 1/2;                   (3/4) / (1/2 + 1e-6)     = 1.499997
HAND_WORKED = [
    (grpo_advantages, [1, 0, 0, 1], [0.866024, -0.866024, -0.866024, 0.866024]),
    (dr_grpo_advantages, [1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
    (rloo_advantages, [1, 0, 0, 1], [0.666667, -0.666667, -0.666667, 0.666667]),
    (grpo_advantages, [1, 0, 0, 0], [1.499997, -0.499999, -0.499999, -0.499999]),
    (dr_grpo_advantages, [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
    (rloo_advantages, [1, 0, 0, 0], [1.0, -1 / 3, -1 / 3, -1 / 3]),
    (pass_k_advantages, [0.9, 0.5, 0.2, 0.2], [0.4, 0, 0, 0]),
    (pass_k_advantages, [1, 1, 0, 0], [0, 0, 0, 0]),
]


@pytest.mark.parametrize(("estimator", "rewards", "expected"), HAND_WORKED)
def test_hand_worked(estimator: Callable[[Rewards], Rewards], rewards: list[float], expected: list[float]) -> None:
    assert estimator(np.array(rewards, np.float64)) == pytest.approx(expected, abs=1e-6)


def test_rloo_is_the_distance_to_the_mean_of_the_others() -> None:
    rewards = np.array([0.3, 1.0, -0.5, 2.0, 0.1])
    others = [np.delete(rewards, i).mean() for i in range(len(rewards))]
    assert rloo_advantages(rewards) == pytest.approx(rewards - others, abs=1e-12)


def test_remax_compares_with_the_greedy_attempt() -> None:
    assert remax_advantages(np.array([1.0]), 0.25).tolist() == [0.75]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("rewards", [[], [1.0], [0.7, 0.7, 0.7]])
def test_nothing_to_compare_teaches_nothing(estimator: Callable[[Rewards], Rewards], rewards: list[float]) -> None:
    advantages = estimator(np.array(rewards, np.float64))
    assert advantages.shape == (len(rewards),) and not has_signal(advantages)


@pytest.mark.parametrize("estimator", ESTIMATORS[:3])
def test_a_mixed_group_always_teaches(estimator: Callable[[Rewards], Rewards]) -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        rewards = draw.choice([0.0, 0.02, 1.0], draw.integers(2, 9))
        assert has_signal(estimator(rewards)) == (rewards.max() > rewards.min())


def test_the_smallest_real_difference_is_signal() -> None:
    assert has_signal(dr_grpo_advantages(np.array([1.0, 1.0, 1.02])))

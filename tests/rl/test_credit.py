"""Credit by call and by token against numbers worked by hand, and what must hold for every group."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.errors import TrainError
from flyball.rl.advantage import rloo_advantages
from flyball.rl.credit import Episode, gigpo, mt_grpo, process_grpo, turn_return_hybrid, turn_rloo, whole_attempt
from flyball.rl.shaping import overlong_punishment, with_potential
from flyball.rl.token_credit import (
    gae,
    implicit_reward_loss,
    implicit_rewards,
    kl_rewards,
    prime_advantages,
    returns_to_go,
    whiten,
)


def episode(turns: list[float], outcome: float = 0.0, states: tuple[str, ...] = ()) -> Episode:
    return Episode(np.array(turns, np.float64), outcome, states)


def everything(*lengths: int) -> list[np.ndarray]:
    return [np.ones(n, np.bool_) for n in lengths]


# --- by call ---------------------------------------------------------------------------------------------------------


def test_turn_rloo_by_hand() -> None:
    """Turn costs -0.1; a and b make two calls, c one. G_a = [0.8, 0.9], G_b = [-0.2, -0.1], G_c = [-0.1]."""
    group = [episode([-0.1, -0.1], 1.0), episode([-0.1, -0.1]), episode([-0.1])]
    a, b, c = turn_rloo(group)
    assert a == pytest.approx([0.8 - (-0.2 - 0.1) / 2, 0.9 - -0.1])
    assert b == pytest.approx([-0.2 - (0.8 - 0.1) / 2, -0.1 - 0.9])
    assert c == pytest.approx([-0.1 - (0.8 - 0.2) / 2])


def test_a_lone_survivor_is_compared_with_full_returns() -> None:
    alone = turn_rloo([episode([-0.1, -0.1], 1.0), episode([-0.1], 0.5), episode([-0.2])])[0]
    assert alone[1] == pytest.approx(0.9 - (0.4 - 0.2) / 2)


def test_without_turn_rewards_turn_rloo_is_rloo() -> None:
    group = [episode([0, 0, 0], 1.0), episode([0], 0.0), episode([0, 0], 0.5)]
    for found, expected in zip(turn_rloo(group), whole_attempt(rloo_advantages)(group), strict=True):
        assert found == pytest.approx(expected)
    assert [a.tolist() for a in turn_rloo([episode([1.0, 0])])] == [[0, 0]]


def test_mt_grpo_by_hand() -> None:
    group = [episode([r, 0], o) for r, o in zip([0.5, 0.5, 0, 0], [1, 0, 1, 0], strict=True)]
    found = np.array(mt_grpo(group))
    assert found[:, 0] == pytest.approx([1.731601, -0.000150, 0.000150, -1.731601], abs=2e-6)
    assert found[:, 1] == pytest.approx([0.865875, -0.865875, 0.865875, -0.865875], abs=2e-6)


def test_turn_return_hybrid_by_hand() -> None:
    turns = [[1, 0], [0, 0], [0, 1], [-0.1, 0]]
    group = [episode(r, o) for r, o in zip(turns, [1, 0, 1, 0], strict=True)]
    assert [e.returns_to_go(0.9).tolist() for e in group] == [
        pytest.approx(g) for g in ([1.81, 0.9], [0, 0], [1.71, 1.9], [-0.1, 0])
    ]
    expected = [[1.172156, 0.480601], [-1.076617, -1.032698], [1.076617, 1.584795], [-1.172156, -1.032698]]
    assert np.array(turn_return_hybrid(group)) == pytest.approx(np.array(expected), abs=2e-6)


def test_process_grpo_sums_normalised_steps() -> None:
    """Steps [1, 0 | 0, 1]: mean 1/2, std 0.577350, so +-0.866024; the outcome is the last step."""
    a, b = process_grpo([episode([1, 0]), episode([0, 0], 1.0)])
    assert a == pytest.approx([0, -0.866024], abs=1e-5) and b == pytest.approx([0, 0.866024], abs=1e-5)


def test_gigpo_compares_calls_made_in_the_same_state() -> None:
    """Both met s; returns 0.95 and 0.0 there, so +-0.475 beside the attempt's +-0.5. Other states were met once."""
    a, b = gigpo([episode([0], 1.0, ("s",)), episode([0, 0], 0.0, ("s", "t"))])
    assert a == pytest.approx([0.5 + 0.475]) and b == pytest.approx([-0.5 - 0.475, -0.5])


@pytest.mark.parametrize("credit", [turn_rloo, mt_grpo])
def test_who_feels_a_constant_cost_per_turn(credit) -> None:
    """Exact, by enumeration: stop or go on once, each turn costs 0.1, the outcome is chance.

    d/dlogit of P(go on) is the mean over all groups of four of A at the first call times (go on - p). It must be
    negative; normalising per turn index does not feel the cost.
    """
    p, slope = 0.5, 0.0
    for bits in range(16):
        goes = [bool(bits >> i & 1) for i in range(4)]
        group = [episode([-0.1, -0.1] if on else [-0.1]) for on in goes]
        for on, advantages in zip(goes, credit(group), strict=True):
            slope += p**4 * float(advantages[0]) * (on - p) / 4
    assert slope == pytest.approx(-0.1 * p * (1 - p)) if credit is turn_rloo else slope == pytest.approx(0.0)


def test_a_potential_changes_no_return_but_by_a_constant() -> None:
    rewards, potentials = np.array([0.2, 0.0, 1.0]), np.array([5.0, -3.0, 2.0])
    shaped = with_potential(rewards, potentials)
    assert shaped.sum() == pytest.approx(rewards.sum() - 5.0)
    assert np.cumsum(shaped[::-1])[::-1] == pytest.approx(np.cumsum(rewards[::-1])[::-1] - potentials)


def test_overlong_punishment_by_hand() -> None:
    lengths = [16_384, 16_385, 18_432, 20_480, 20_481]
    expected = [0, -0.000244140625, -0.5, -1, -1]
    assert [overlong_punishment(n, 20_480, 4_096) for n in lengths] == expected


# --- by token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("g", "lam", "expected"), [(1, 0.95, [0.82675, 0.765, 0.7]), (0.9, 0.8, [0.49328, 0.574, 0.7])]
)
def test_gae_by_hand_and_through_tool_results(g: float, lam: float, expected: list[float]) -> None:
    rewards, values = np.array([0, 0, 1.0]), np.array([0.1, 0.2, 0.3])
    found, returns = gae(rewards, values, np.ones(3, np.bool_), g, lam)
    assert found == pytest.approx(expected) and returns == pytest.approx(found + values)
    mask = np.array([True, True, False, False, True])
    wide, _ = gae(np.array([0, 0, 0, 0, 1.0]), np.array([0.1, 0.2, 9, -7, 0.3]), mask, g, lam)
    assert wide[mask] == pytest.approx(expected) and wide[~mask].tolist() == [0, 0]


def test_without_values_gae_is_what_is_still_to_come() -> None:
    """MT-PPO: rewards on the last token of each turn; one on a tool result counts for the token before it."""
    mask = np.array([True, True, False, True])
    found, _ = gae(np.array([0, 0.3, 0.2, 1.0]), np.zeros(4), mask, 1, 1)
    assert found == pytest.approx([1.5, 1.5, 0, 1.0])


def test_kl_in_the_reward_by_hand() -> None:
    mask = np.ones(3, np.bool_)
    rewards = kl_rewards(np.array([-1, -2, -0.5]), np.array([-1.2, -1.5, -0.5]), mask, 0.1, 1.0)
    assert rewards == pytest.approx([-0.02, 0.05, 1.0])
    assert returns_to_go(rewards, mask) == pytest.approx([1.03, 1.05, 1.0])


def test_whitening_leaves_out_what_was_not_sampled() -> None:
    a, b = whiten([np.array([1.0, 99.0]), np.array([3.0])], [np.array([True, False]), np.array([True])])
    assert a == pytest.approx([-1, 0]) and b == pytest.approx([1])
    assert whiten([np.full(3, 2.0)], everything(3))[0].tolist() == [0, 0, 0]


def test_prime_by_hand() -> None:
    equal = prime_advantages(np.zeros(2), [np.full(2, 0.3), np.full(4, 0.3)], everything(2, 4))
    assert all(a == pytest.approx(np.zeros(len(a))) for a in equal)
    a, b = prime_advantages(np.array([1.0, 0.0]), [np.array([0.2, 0.0]), np.array([0.5])], everything(2, 1))
    assert a == pytest.approx([1 + 5 * (0.2 + 0.0 - 2 * 0.5), 1 + 5 * (0.0 - 0.5)])
    assert b == pytest.approx([-1 + 5 * (0.5 - 0.1)])
    assert implicit_rewards(np.array([-1.0]), np.array([-3.0])) == pytest.approx([0.1])
    assert implicit_reward_loss(np.zeros(3), True) == pytest.approx(np.log(2))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(TrainError, match="rewards 2, values 3, mask 2"):
        gae(np.zeros(2), np.zeros(3), np.ones(2, np.bool_))

"""What papers print or imply that no other file checks: each number beside the formula that gives it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flyball.rl.advantage import dr_grpo_advantages, grpo_advantages, has_signal, pass_k_advantages
from flyball.rl.correction import CORRECTIONS
from flyball.rl.credit import Episode, mt_grpo, whole_attempt
from flyball.rl.kl import kl_k1, kl_k2, kl_k3
from flyball.rl.loss import Clip, ppo_clip, value_loss
from flyball.rl.preference import bradley_terry, dpo, turn_weights
from flyball.rl.token_credit import implicit_reward_loss


def chance(successes: int, size: int, p: float) -> float:
    return math.comb(size, successes) * p**successes * (1 - p) ** (size - successes)


def group(successes: int, size: int) -> np.ndarray:
    return np.array([1.0] * successes + [0.0] * (size - successes))


@pytest.mark.parametrize(
    ("p", "size", "share"),
    [
        (0.1, 4, 0.3438), (0.9, 4, 0.3438), (0.1, 8, 0.569533), (0.9, 8, 0.569533), (0.1, 16, 0.814698),
        (0.5, 4, 0.875), (0.5, 8, 0.992188), (0.5, 16, 0.999969),
    ],
)  # fmt: skip
def test_dapo_the_share_of_groups_that_teach(p: float, size: int, share: float) -> None:
    """1 - p^G - (1-p)^G, counted with what the filter of groups says."""
    found = sum(chance(c, size, p) for c in range(size + 1) if has_signal(grpo_advantages(group(c, size))))
    assert found == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(("p", "expected"), [(0.05, 0.219767), (0.25, 0.710722), (0.5, 0.867904)])
def test_sec_the_mean_absolute_advantage(p: float, expected: float) -> None:
    """E|A| of GRPO with G = 8: what the bandit over families is paid."""
    found = sum(chance(c, 8, p) * np.abs(grpo_advantages(group(c, 8))).mean() for c in range(9))
    assert found == pytest.approx(expected, abs=4e-6)  # printed without eps


def test_dapo_the_headroom_of_clip_higher() -> None:
    """A token of probability 0.01 is pushed up to 0.0128 (to 0.012 with 0.2 both ways), one of 0.9 never feels it."""

    def pushed(old: float, now: float, high: float) -> bool:
        logprob = torch.tensor([math.log(now)], dtype=torch.float64, requires_grad=True)
        rho = (logprob - math.log(old)).exp()
        ppo_clip(logprob, rho, torch.ones(1, dtype=torch.float64), Clip(0.2, high)).sum().backward()
        assert logprob.grad is not None
        return bool(logprob.grad.item() != 0)

    assert pushed(0.01, 0.01279, 0.28) and not pushed(0.01, 0.01281, 0.28)
    assert pushed(0.01, 0.01199, 0.2) and not pushed(0.01, 0.01201, 0.2)
    assert pushed(0.9, 0.9999, 0.2)


def test_the_std_is_that_of_a_sample_and_pass_k_is_not_divided_by_it() -> None:
    """The population std would give 1 and 1.732051; pass@k over the std 1.206045. Ours: see the deviations."""
    assert grpo_advantages(np.array([1.0, 0, 0, 1]))[0] / math.sqrt(3 / 4) == pytest.approx(1, abs=1e-5)
    assert grpo_advantages(np.array([1.0, 0, 0, 0]))[0] / math.sqrt(3 / 4) == pytest.approx(1.732051, abs=1e-5)
    rewards = np.array([0.9, 0.5, 0.2, 0.2])
    assert pass_k_advantages(rewards)[0] / rewards.std(ddof=1) == pytest.approx(1.206045, abs=1e-5)


def test_agent_prm_returns_with_one_terminal_reward() -> None:
    """g = 0.95, success at T = 4; and a pair seen in three attempts with the returns g^2, 0 and g^4."""
    to_go = Episode(np.array([0, 0, 0, 1.0]), 0.0).returns_to_go(0.95)
    assert to_go == pytest.approx([0.857375, 0.9025, 0.95, 1.0])
    assert np.mean([0.95**2, 0, 0.95**4]) == pytest.approx(0.572335, abs=1e-6)


def test_mt_grpo_the_two_parts() -> None:
    """Turn rewards 0.5, 0.5, 0, 0 and outcomes 1, 0, 1, 0 with eps 1e-4: +-0.865726 and +-0.865875."""
    turns = mt_grpo([Episode(np.array([r]), 0.0) for r in (0.5, 0.5, 0, 0)])
    ends = mt_grpo([Episode(np.zeros(1), o) for o in (1.0, 0, 1, 0)])
    assert np.concatenate(turns) == pytest.approx([0.865726, 0.865726, -0.865726, -0.865726], abs=1e-6)
    assert np.concatenate(ends) == pytest.approx([0.865875, -0.865875, 0.865875, -0.865875], abs=1e-6)


@pytest.mark.parametrize(
    ("shift", "true", "spread", "bias"),
    [(0.1, 0.005, (20.0, 1.42, 1.42), 0.002), (1.0, 0.5, (2.0, 1.73, 1.70), 0.25)],
)
def test_the_spread_of_the_kl_estimators(shift: float, true: float, spread: tuple[float, ...], bias: float) -> None:
    """pi = N(0, 1), reference N(shift, 1), by quadrature: std over the true KL for k1, k2, k3, and the bias of k2."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = (-(x**2) / 2).exp() / math.sqrt(2 * math.pi) * (x[1] - x[0])
    own, other = -(x**2) / 2, -((x - shift) ** 2) / 2
    values = [k(own, other) for k in (kl_k1, kl_k2, kl_k3)]
    means = [float((density * v).sum()) for v in values]
    stds = [float((density * (v - m) ** 2).sum()) ** 0.5 for v, m in zip(values, means, strict=True)]
    assert means[0] == pytest.approx(true, rel=1e-6) and means[2] == pytest.approx(true, rel=1e-6)
    assert [s / true for s in stds] == pytest.approx(spread, rel=0.005)
    assert means[1] / true - 1 == pytest.approx(bias, abs=0.0006)


def test_the_token_mask_is_icepop_with_one_bound() -> None:
    log_rho = np.log([0.3, 0.6, 1, 1.8, 6])
    assert CORRECTIONS["icepop"].weights(log_rho, 0.0, 2.0)[0] == pytest.approx([0.3, 0.6, 1, 1.8, 0])


def test_products_of_a_sequence_explode() -> None:
    for n, product in ((10, 2.593742), (100, 13_780.6)):
        weights, _ = CORRECTIONS["tis-sequence"].weights(np.full(n, math.log(1.1)), None, math.inf)
        assert weights[0] == pytest.approx(product, rel=1e-6)


def test_bradley_terry_and_the_start_of_dpo() -> None:
    one = np.ones(1)
    loss, chosen, rejected = bradley_terry(one, 0 * one)
    assert loss[0] == pytest.approx(0.313262, abs=1e-6) and bradley_terry(one, one)[0][0] == pytest.approx(math.log(2))
    assert chosen[0] == pytest.approx(-(1 - 1 / (1 + math.exp(-1)))) and rejected[0] == -chosen[0]
    assert bradley_terry(one, 0 * one, margin=1.0)[0][0] == pytest.approx(math.log(2))
    assert dpo(turn_weights(1) * 2, -turn_weights(1))[0] == pytest.approx(dpo(2 * one, -one)[0])


def test_the_implicit_reward_of_a_failure() -> None:
    assert implicit_reward_loss(np.array([0.4, 0.6]), True) == pytest.approx(0.313262, abs=1e-6)
    assert implicit_reward_loss(np.array([0.4, 0.6]), False) == pytest.approx(1.313262, abs=1e-6)


def test_the_value_loss_is_the_worse_of_clipped_and_free() -> None:
    """V_old 0, e 0.5, return 1: V 0.3 is inside (0.245); V 0.8 is held at 0.5 (0.125); V 2 lost too much (0.5)."""
    found = value_loss(torch.tensor([0.3, 0.8, 2.0]), torch.zeros(3), torch.ones(3), 0.5)
    assert found.tolist() == pytest.approx([0.245, 0.125, 0.5])


def test_groups_do_not_mix_agents() -> None:
    """Two agents with constant, different rewards, each its own group: nothing to learn. Mixed, they would teach."""
    planner, solver = np.full(3, 0.2), np.full(3, 0.9)
    credit = whole_attempt(dr_grpo_advantages)
    groups = [[Episode(np.zeros(1), r) for r in rewards] for rewards in (planner, solver)]
    assert not any(has_signal(np.concatenate(credit(g))) for g in groups)
    assert has_signal(np.concatenate(credit(groups[0] + groups[1])))

"""Expected gradients by enumeration: every group that a tiny policy can draw, weighted by its probability.

The world: in state 0 the policy stops or goes on; who goes on chooses once more in state 1. Parameters are the logits
[2, 2] of the two states, so a policy gradient has four numbers and nothing is sampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from flyball.rl.advantage import (
    Rewards,
    dr_grpo_advantages,
    grpo_advantages,
    no_baseline,
    pass_k_advantages,
    remax_advantages,
    rloo_advantages,
)
from flyball.rl.aggregate import loss_weights
from flyball.rl.credit import (
    Credit,
    Episode,
    gigpo,
    mt_grpo,
    process_grpo,
    turn_return_hybrid,
    turn_rloo,
    whole_attempt,
)
from flyball.rl.kl import PLACEMENTS, kl_k3
from flyball.rl.token_credit import gae, kl_rewards, prime_advantages, returns_to_go, whiten

THETA = [[0.5, -0.3], [0.2, 0.9]]
REF = torch.tensor([[-0.4, 0.1], [0.6, -0.2]], dtype=torch.float64).log_softmax(-1)


@dataclass(frozen=True)
class Path:
    """One way through the world: its (state, action) pairs, what each call earned, and the end."""

    steps: tuple[tuple[int, int], ...]
    turn_rewards: tuple[float, ...]
    outcome: float

    def logprobs(self, policy: torch.Tensor) -> torch.Tensor:
        return torch.stack([policy[s, a] for s, a in self.steps])

    @property
    def episode(self) -> Episode:
        return Episode(np.array(self.turn_rewards), self.outcome, tuple(s for s, _ in self.steps))


PATHS = (
    Path(((0, 0),), (-0.1,), 0.2),
    Path(((0, 1), (1, 0)), (-0.1, 0.3), 0.0),
    Path(((0, 1), (1, 1)), (-0.1, -0.2), 1.0),
)
TWO_STEPS = tuple(  # the same states, but nobody can stop: every path has two calls
    Path(((0, a), (1, b)), (0.3 * a, -0.2 * b), float(a == b)) for a, b in itertools.product((0, 1), repeat=2)
)


def policy() -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    return theta, theta.log_softmax(-1)


def exact(of: Callable[[Path], float], paths: Sequence[Path] = PATHS) -> torch.Tensor:
    """Gradient of E[of(path)]."""
    theta, now = policy()
    mean = sum(p.logprobs(now).sum().exp() * of(p) for p in paths)
    return torch.autograd.grad(mean, theta)[0]


def reward(path: Path) -> float:
    return path.episode.reward


def expected(
    credit: Credit, size: int = 3, mode: str = "seq-mean-token-sum", horizon: int | None = None, paths=PATHS
) -> torch.Tensor:
    """Expected gradient of sum_i sum_k w_{i,k} A_{i,k} log pi over all groups of `size` attempts."""
    theta, now = policy()
    total = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(paths, repeat=size):
        chance = sum(p.logprobs(now).sum() for p in group).exp().detach()
        advantages = credit([p.episode for p in group])
        weights = loss_weights([np.ones(len(p.steps), np.bool_) for p in group], mode, horizon)
        for p, a, w in zip(group, advantages, weights, strict=True):
            total = total + chance * (torch.from_numpy(a * w.astype(np.float64)) * p.logprobs(now)).sum()
    return torch.autograd.grad(total, theta)[0]


def same(found: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-7) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)  # loss weights are float32


# --- estimators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credit", "scale"),
    [
        (whole_attempt(rloo_advantages), 1.0),
        (turn_rloo, 1.0),
        (whole_attempt(no_baseline), 1.0),
        (whole_attempt(dr_grpo_advantages), 2 / 3),
        (whole_attempt(lambda r: remax_advantages(r, 0.1)), 1.0),
    ],
    ids=["rloo", "turn_rloo", "reinforce", "dr_grpo", "remax"],
)
def test_estimators_without_bias(credit: Credit, scale: float) -> None:
    """The gradient of E[R] over whole attempts of different lengths; Dr. GRPO's is (G-1)/G of it."""
    same(expected(credit), scale * exact(reward))


def test_grpo_climbs_the_spread_of_the_group() -> None:
    """Two arms, success with probability p: E over c of sqrt(m(1-m)(G-1)/G), m = c/G, along the logit of success.

    By hand: sum_i A_i d log pi_i / G = m A+ (1-p) - (1-m) A- p = m(1-m)/std, std = sqrt(m(1-m) G/(G-1)).
    """
    arms = (Path(((0, 0),), (0.0,), 0.0), Path(((0, 1),), (0.0,), 1.0))
    p = float(torch.tensor(THETA[0], dtype=torch.float64).softmax(-1)[1])
    spread = sum(
        chance * (m * (1 - m) * 2 / 3) ** 0.5
        for m, chance in ((1 / 3, 3 * p * (1 - p) ** 2), (2 / 3, 3 * p**2 * (1 - p)))
    )
    found = expected(whole_attempt(lambda r: grpo_advantages(r, 0.0) if np.ptp(r) else 0 * r), paths=arms)
    same(found[0], torch.tensor([-spread, spread], dtype=torch.float64))
    for credit in (mt_grpo, process_grpo):
        same(expected(credit, paths=arms), found, atol=1e-3)  # with one call they are GRPO, up to eps
    same(expected(turn_return_hybrid, paths=arms), 1.3 * found, atol=1e-3)


def test_pass_k_climbs_the_best_of_the_group() -> None:
    """G times the gradient is that of E[max R]: each attempt is paid what the best would be less without it."""
    theta, now = policy()
    best = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(PATHS, repeat=3):
        best = best + sum(p.logprobs(now).sum() for p in group).exp() * max(map(reward, group))
    same(3 * expected(whole_attempt(pass_k_advantages)), torch.autograd.grad(best, theta)[0])


def test_gigpo_without_std_climbs_both_its_parts() -> None:
    """One call, one state: the attempt among all and the call among all are both (G-1)/G of the gradient; g is 0.95."""
    arms = (Path(((0, 0),), (0.0,), 0.0), Path(((0, 1),), (0.0,), 1.0))
    same(expected(gigpo, paths=arms), (1 + 0.95) * 2 / 3 * exact(reward, arms))


def test_whitening_scales_and_nothing_else() -> None:
    """A batch that holds every arm in its true share (1/4, 1/4, 1/2): the gradient of E[R] over the std of R."""
    shares, rewards = np.array([0.25, 0.25, 0.5]), np.array([1.0, -1.0, 0.4])
    batch = [0, 1, 2, 2]
    one = np.ones(1, np.bool_)
    advantages = np.concatenate(whiten([np.array([rewards[i]]) for i in batch], [one] * 4))
    found = sum(a * (np.eye(3)[i] - shares) for a, i in zip(advantages, batch, strict=True)) / 4
    true = (shares * rewards) @ (np.eye(3) - shares)
    assert found == pytest.approx(true / rewards[batch].std(), abs=1e-7)


# --- by token --------------------------------------------------------------------------------------------------------


def from_tokens(advantages: Callable[[Path], np.ndarray], paths: Sequence[Path] = PATHS) -> torch.Tensor:
    theta, now = policy()
    total = torch.zeros((), dtype=torch.float64)
    for p in paths:
        lp = p.logprobs(now)
        total = total + lp.sum().exp().detach() * (torch.from_numpy(advantages(p)) * lp).sum()
    return torch.autograd.grad(total, theta)[0]


def values(path: Path, of_state: Sequence[float]) -> np.ndarray:
    return np.array([of_state[s] for s, _ in path.steps])


def true_values() -> list[float]:
    _, now = policy()
    chance = now.detach().exp()
    in_one = sum(float(chance[1, a]) * (PATHS[1 + a].turn_rewards[1] + PATHS[1 + a].outcome) for a in (0, 1))
    stop, on = (PATHS[0].turn_rewards[0] + PATHS[0].outcome), PATHS[1].turn_rewards[0] + in_one
    return [float(chance[0, 0]) * stop + float(chance[0, 1]) * on, in_one]


def gae_of(of_state: Sequence[float], trace: float) -> Callable[[Path], np.ndarray]:
    def advantages(path: Path) -> np.ndarray:
        rewards = np.array(path.turn_rewards)
        rewards[-1] += path.outcome
        return gae(rewards, values(path, of_state), np.ones(len(rewards), np.bool_), 1.0, trace)[0]

    return advantages


@pytest.mark.parametrize(("of_state", "trace"), [([3.0, -2.0], 1.0), (None, 0.0), (None, 0.95)])
def test_gae_is_exact_with_full_returns_or_with_the_true_values(of_state: list[float] | None, trace: float) -> None:
    same(from_tokens(gae_of(of_state or true_values(), trace)), exact(reward))


def test_gae_with_a_wrong_critic_and_short_traces_is_biased() -> None:
    wrong = from_tokens(gae_of([3.0, -2.0], 0.0))
    assert float((wrong - exact(reward)).abs().max()) > 0.1


def test_prime_climbs_outcome_and_process_reward_together() -> None:
    """Groups of two over paths of two tokens: the gradient of E[o] + 5 E[sum_t r_t]; the baselines take nothing."""
    theta, now = policy()
    mask = np.ones(2, np.bool_)
    total = torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(TWO_STEPS, repeat=2):
        outcomes = np.array([p.outcome for p in pair])
        made = prime_advantages(outcomes, [np.array(p.turn_rewards) for p in pair], [mask, mask])
        chance = sum(p.logprobs(now).sum() for p in pair).exp().detach()
        for p, a in zip(pair, made, strict=True):
            total = total + chance * (torch.from_numpy(a) * p.logprobs(now)).sum() / 2
    wanted = exact(lambda p: p.outcome + 5 * sum(p.turn_rewards), TWO_STEPS)
    same(torch.autograd.grad(total, theta)[0], wanted)


# --- aggregation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
def test_what_each_aggregation_climbs(size: int) -> None:
    """Sums climb E[R]. A mean within the sequence climbs E[R/T]: one success in two tokens is half a success."""
    reinforce: Callable[[Rewards], Rewards] = no_baseline
    credit = whole_attempt(reinforce)
    same(expected(credit, size, "seq-mean-token-sum"), exact(reward))
    same(expected(credit, size, "seq-mean-token-sum-norm", 8), exact(reward) / 8)
    same(expected(credit, size, "seq-mean-token-mean"), exact(lambda p: reward(p) / len(p.steps)))


def test_with_equal_lengths_all_aggregations_agree() -> None:
    credit, wanted = whole_attempt(rloo_advantages), exact(reward, TWO_STEPS)
    for mode, horizon, scale in (
        ("token-mean", None, 1 / 2),
        ("seq-mean-token-mean", None, 1 / 2),
        ("seq-mean-token-sum", None, 1.0),
        ("seq-mean-token-sum-norm", 4, 1 / 4),
    ):
        same(expected(credit, 2, mode, horizon, TWO_STEPS), scale * wanted)


# --- where a KL stands, over sequences -------------------------------------------------------------------------------


def sequence_kl() -> torch.Tensor:
    theta, now = policy()
    total = sum(p.logprobs(now).sum().exp() * (p.logprobs(now) - p.logprobs(REF)).sum() for p in PATHS)
    return torch.autograd.grad(total, theta)[0]


def token_local(divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Gradient of the divergence in each state, with how often it is reached held fixed."""
    theta, now = policy()
    total = divergence(now[0], REF[0]) + now[0, 1].detach().exp() * divergence(now[1], REF[1])
    return torch.autograd.grad(total, theta)[0]


def reverse(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum()


def forward(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return reverse(q, p)


def in_reward(estimator: str) -> torch.Tensor:
    """Gradient of the cost beta x KL put on tokens, returned to go, at beta 1."""

    def cost(path: Path) -> np.ndarray:
        _, now = policy()
        mask = np.ones(len(path.steps), np.bool_)
        own, ref = path.logprobs(now.detach()).numpy(), path.logprobs(REF).numpy()
        return -returns_to_go(kl_rewards(own, ref, mask, 1.0, 0.0, estimator), mask)

    return from_tokens(cost)


def in_loss(name: str) -> torch.Tensor:
    theta, now = policy()
    term = PLACEMENTS[name].loss
    assert term is not None
    total = torch.zeros((), dtype=torch.float64)
    for p in PATHS:
        lp = p.logprobs(now)
        total = total + lp.sum().exp().detach() * term(lp, p.logprobs(REF), lp.detach()).sum()
    return torch.autograd.grad(total, theta)[0]


def test_a_kl_in_the_reward_counts_what_follows_and_one_in_the_loss_does_not() -> None:
    same(in_reward("k1"), sequence_kl())
    for name in ("k2-in-loss", "k2-in-loss-weighted", "k3-in-loss-weighted"):
        same(in_loss(name), token_local(reverse))
    same(in_loss("k3-in-loss"), token_local(forward))
    same(in_loss("k1-in-loss"), torch.zeros(2, 2, dtype=torch.float64))
    same(in_reward("k3"), sequence_kl() - token_local(forward))
    assert float((sequence_kl() - token_local(reverse)).abs().max()) > 0.01, "the terms across tokens matter here"
    k2_reward = in_reward("k2")
    assert min(float((k2_reward - other).abs().max()) for other in (sequence_kl(), token_local(forward))) > 0.01


def test_k3_in_the_reward_and_in_the_loss_together_is_the_reverse_kl() -> None:
    same(in_reward("k3") + in_loss("k3-in-loss"), sequence_kl())


@pytest.mark.parametrize("name", ["k2-in-loss-weighted", "k3-in-loss-weighted"])
def test_the_weighted_forms_hold_off_policy(name: str) -> None:
    """Drawn from another policy: still the gradient of the reverse KL of the policy now."""
    term, other = PLACEMENTS[name].loss, torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    assert term is not None

    def gradient(of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        theta, now = policy()
        return torch.autograd.grad(of(now[0]), theta)[0]

    wanted = gradient(lambda now: reverse(now, REF[0]))
    same(gradient(lambda now: (other.exp() * term(now, REF[0], other)).sum()), wanted)
    assert float((gradient(lambda now: (other.exp() * kl_k3(now, REF[0])).sum()) - wanted).abs().max()) > 0.01

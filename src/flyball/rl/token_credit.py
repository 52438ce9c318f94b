"""Credit by token: rewards, values and KL of T sampled tokens -> advantages [T].

Arrays are [T] float64 over one sequence; `mask` is True on tokens that the policy sampled. Other tokens
(tool results, padding) take no part: the recursions carry the next sampled token's numbers through them.
Symbols: r reward, V value, g discount, lam trace, beta KL weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError
from flyball.rl.advantage import rloo_advantages

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

WHITEN_EPS = 1e-8


def gae(
    rewards: Floats, values: Floats, mask: Mask, discount: float = 1.0, trace: float = 0.95
) -> tuple[Floats, Floats]:
    """d_t = r_t + g V_{t+1} - V_t, A_t = d_t + g lam A_{t+1}; the return is A + V.  GAE, arXiv 1506.02438, eq. 16.

    Advantages and returns, 0 outside the mask. A reward on a token outside the mask counts for the sampled token before
    it. With values 0 and g = lam = 1 the advantage is the sum of rewards at or after the token (MT-PPO, 2505.11821 v2).
    """
    _same_length(rewards=rewards, values=values, mask=mask)
    advantages = np.zeros(len(rewards))
    next_value = next_advantage = between = 0.0
    for t in reversed(range(len(rewards))):
        if not mask[t]:
            between += rewards[t]
            continue
        delta = rewards[t] + between + discount * next_value - values[t]
        next_advantage = advantages[t] = delta + discount * trace * next_advantage
        next_value, between = values[t], 0.0
    return advantages, np.where(mask, advantages + values, 0.0)


def returns_to_go(rewards: Floats, mask: Mask, discount: float = 1.0) -> Floats:
    """sum_{s >= t} g^(s-t) r_s over the sampled tokens."""
    return gae(rewards, np.zeros(len(rewards)), mask, discount, 1.0)[0]


def explained_variance(values: Floats, returns: Floats) -> float | None:
    """1 - Var(returns - V)/Var(returns): 1 for a perfect critic, 0 for a constant; None where nothing varies."""
    spread = float(np.var(returns))
    return 1.0 - float(np.var(returns - values)) / spread if spread > 0 else None


KL_VALUES: dict[str, Callable[[Floats], Floats]] = {
    "k1": lambda log_r: -log_r,
    "k2": lambda log_r: log_r**2 / 2,
    "k3": lambda log_r: np.expm1(log_r) - log_r,
}
"""Estimators of `kl.py` as rewards: log(pi_ref/pi_old) of the drawn token -> value."""


def kl_rewards(
    logprobs: Floats, ref_logprobs: Floats, mask: Mask, kl_coef: float, score: float, estimator: str = "k1"
) -> Floats:
    """r_t = -beta k(pi_old, pi_ref), and the score on the last sampled token. k1 is the one to use (`kl.py`)."""
    _same_length(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask)
    rewards: Floats = np.where(mask, -kl_coef * KL_VALUES[estimator](np.where(mask, ref_logprobs - logprobs, 0.0)), 0.0)
    if mask.any():
        rewards[np.flatnonzero(mask)[-1]] += score
    return rewards


def whiten(advantages: Sequence[Floats], masks: Sequence[Mask]) -> list[Floats]:
    """(A - mean)/(std + eps) over all sampled tokens of the batch; 0 elsewhere.  REINFORCE++, arXiv 2501.03262, eq. 8.

    A batch whose advantages are all equal gives 0: there is nothing to compare.
    """
    sampled = np.concatenate([a[m] for a, m in zip(advantages, masks, strict=True)] or [np.zeros(0)])
    if not len(sampled):
        return [np.zeros(len(a)) for a in advantages]
    mean, std = sampled.mean(), sampled.std()
    return [np.where(m, (a - mean) / (std + WHITEN_EPS), 0.0) for a, m in zip(advantages, masks, strict=True)]


def implicit_rewards(logprobs: Floats, ref_logprobs: Floats, beta: float = 0.05) -> Floats:
    """r_t = beta log(pi_phi / pi_ref): the process reward hidden in a model of outcomes.  PRIME, 2502.01456, eq. 3."""
    rewards: Floats = beta * (logprobs - ref_logprobs)
    return rewards


def implicit_reward_loss(rewards: Floats, success: bool) -> float:
    """Cross-entropy of sigmoid(sum_t r_t) with the outcome.  PRIME, eq. 5."""
    total = float(rewards.sum())
    return float(np.logaddexp(0.0, -total if success else total))


def implicit_reward_slope(total: float, success: bool, beta: float = 0.05) -> float:
    """beta (sigmoid(sum_t r_t) - o): the derivative of the cross-entropy by each log pi_phi of the attempt."""
    return float(beta * (1.0 / (1.0 + np.exp(-np.clip(total, -500.0, 500.0))) - success))


def prime_advantages(
    outcomes: Floats,
    process_rewards: Sequence[Floats],
    masks: Sequence[Mask],
    process_weight: float = 5.0,
    outcome_weight: float = 1.0,
    discount: float = 1.0,
) -> list[Floats]:
    """RLOO of outcomes plus return-to-go of process rewards less a leave-one-out baseline.  PRIME, 2502.01456, eq. 6.

    The baseline of an attempt's process rewards is the mean over the other attempts of their mean reward per token.
    """
    means = np.array([r[m].mean() if m.any() else 0.0 for r, m in zip(process_rewards, masks, strict=True)])
    baselines = means - rloo_advantages(means)  # the mean of the others
    if len(means) == 1:
        baselines = means
    return [
        np.where(m, outcome_weight * outcome + process_weight * returns_to_go(r - baseline, m, discount), 0.0)
        for outcome, r, baseline, m in zip(rloo_advantages(outcomes), process_rewards, baselines, masks, strict=True)
    ]


def _same_length(**arrays: npt.NDArray[np.generic]) -> None:
    if len({len(a) for a in arrays.values()}) > 1:
        told = ", ".join(f"{name} {len(a)}" for name, a in arrays.items())
        raise TrainError(f"arrays of one sequence have different lengths ({told}); every token has one of each")

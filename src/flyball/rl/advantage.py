"""Advantage estimators of group-relative RL: rewards of the G attempts at one task -> one advantage each.

Symbols: R_i reward of attempt i, G group size. `rewards` is [G] of finite floats; attempts without a reward (Missing)
are left out before the call, so G is what could be graded. A group of one carries no comparison: its advantage is 0,
except where a paper says otherwise (listed at the function). Credit inside an attempt: `credit.py`, `token_credit.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rewards = npt.NDArray[np.float64]

STD_EPS = 1e-6


def rloo_advantages(rewards: Rewards) -> Rewards:
    """A_i = R_i - mean_{j != i} R_j = G/(G-1) (R_i - mean R).  RLOO, arXiv 2402.14740, eq. for k samples."""
    g = len(rewards)
    if g < 2:
        return np.zeros(g)
    advantages: Rewards = (rewards - rewards.mean()) * g / (g - 1)
    return advantages


def grpo_advantages(rewards: Rewards, eps: float = STD_EPS) -> Rewards:
    """A_i = (R_i - mean R) / (std R + eps), std with G-1.  GRPO, arXiv 2402.03300, section 4.1.2."""
    g = len(rewards)
    if g < 2:
        return np.zeros(g)
    advantages: Rewards = (rewards - rewards.mean()) / (rewards.std(ddof=1) + eps)
    return advantages


def dr_grpo_advantages(rewards: Rewards) -> Rewards:
    """A_i = R_i - mean R, no std.  Dr. GRPO, arXiv 2503.20783, section 3.2."""
    return rewards - rewards.mean() if len(rewards) else rewards


def no_baseline(rewards: Rewards) -> Rewards:
    """A_i = R_i: what it is compared with is the batch.  REINFORCE++, arXiv 2501.03262."""
    return rewards


def pass_k_advantages(rewards: Rewards) -> Rewards:
    """The best attempt gets R_max - R_second, the others 0: the group is paid for its best.  GRPO pass@k, as in verl.

    Attempts that tie for the best get 0: without any one of them the group earns the same.
    """
    advantages = np.zeros(len(rewards))
    if len(rewards) > 1:
        second, best = np.sort(rewards)[-2:]
        advantages[int(np.argmax(rewards))] = best - second
    return advantages


def remax_advantages(rewards: Rewards, greedy: float) -> Rewards:
    """A_i = R_i - R of the greedy attempt at the same task.  ReMax, arXiv 2310.10505, eq. 5. One attempt is enough."""
    return rewards - greedy


def has_signal(advantages: Rewards) -> bool:
    """Whether a group teaches anything: False for a zero-variance group."""
    return bool(np.any(np.abs(advantages) > 1e-8))

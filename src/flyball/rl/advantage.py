"""Advantage estimators of group-relative RL: rewards of the G attempts at one task -> one advantage each.

Symbols: R_i reward of attempt i, G group size. `rewards` is [G] of finite floats; attempts without a reward (Missing)
are left out before the call, so G is what could be graded. A group of one carries no comparison: its advantage is 0,
except where a paper says otherwise (listed at the function).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rewards = npt.NDArray[np.float64]


def rloo_advantages(rewards: Rewards) -> Rewards:
    """A_i = R_i - mean_{j != i} R_j = G/(G-1) (R_i - mean R).  RLOO, arXiv 2402.14740, eq. for k samples."""
    g = len(rewards)
    if g < 2:
        return np.zeros(g)
    advantages: Rewards = (rewards - rewards.mean()) * g / (g - 1)
    return advantages


def grpo_advantages(rewards: Rewards, eps: float = 1e-6) -> Rewards:
    """A_i = (R_i - mean R) / (std R + eps), std with G-1.  GRPO, arXiv 2402.03300, section 4.1.2."""
    g = len(rewards)
    if g < 2:
        return np.zeros(g)
    advantages: Rewards = (rewards - rewards.mean()) / (rewards.std(ddof=1) + eps)
    return advantages


def dr_grpo_advantages(rewards: Rewards) -> Rewards:
    """A_i = R_i - mean R, no std.  Dr. GRPO, arXiv 2503.20783, section 3.2."""
    return rewards - rewards.mean() if len(rewards) else rewards


def has_signal(advantages: Rewards) -> bool:
    """Whether a group teaches anything: False for a zero-variance group."""
    return bool(np.any(np.abs(advantages) > 1e-8))

"""Rewards changed before they are compared: what length costs, and potentials that change no optimum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flyball.types import Limits

Floats = npt.NDArray[np.float64]

CACHE_SHARE = 0.2
"""L_cache / L_max of DAPO: 4,096 of 20,480 tokens."""


def overlong_punishment(length: int, max_length: int, cache: int) -> float:
    """0 up to L_max - L_cache, then down to -1 in a straight line at L_max, -1 beyond.  DAPO, 2503.14476, eq. 13."""
    start = max_length - cache
    if length <= start:
        return 0.0
    return -1.0 if length > max_length else (start - length) / cache


def token_budget(limits: Limits) -> int:
    """The most tokens that an attempt can sample under its limits."""
    return min(limits.max_turns * limits.max_new_tokens, limits.max_tokens)


def with_potential(rewards: Floats, potentials: Floats, discount: float = 1.0) -> Floats:
    """r_k + g Phi(s_{k+1}) - Phi(s_k) [K], Phi of the end 0: no optimum changes.  Ng, Harada and Russell, ICML 1999.

    `potentials` [K]: Phi of the state that each call is made in.
    """
    after = np.append(potentials[1:], 0.0)[: len(rewards)]
    shaped: Floats = rewards + discount * after - potentials
    return shaped

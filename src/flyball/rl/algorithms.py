"""Presets: a name, its plain functions, its defaults and its tier. A new algorithm is one function and one row.

Tiers: `verified` (a curve on a model people know), `exact` (tests against the formulae), `experimental`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flyball.errors import ConfigError, nearest
from flyball.rl.advantage import Rewards, dr_grpo_advantages, grpo_advantages, rloo_advantages


@dataclass(frozen=True)
class Algorithm:
    """One row: how advantages are made, how token losses are aggregated, and the defaults of its paper."""

    name: str
    advantages: Callable[[Rewards], Rewards]
    loss_agg_mode: str
    clip_ratio_low: float
    clip_ratio_high: float
    tis_cap: float
    kl_coef: float
    tier: str
    source: str


ALGORITHMS = {
    row.name: row
    for row in (
        Algorithm("rloo", rloo_advantages, "token-mean", 0.2, 0.28, 2.0, 0.0, "exact", "2402.14740; clip 2503.14476"),
        Algorithm("grpo", grpo_advantages, "seq-mean-token-mean", 0.2, 0.2, 2.0, 0.04, "exact", "2402.03300"),
        Algorithm("dr_grpo", dr_grpo_advantages, "seq-mean-token-sum-norm", 0.2, 0.2, 2.0, 0.0, "exact", "2503.20783"),
    )
}


def algorithm(name: str) -> Algorithm:
    """The row of that name. Raises ConfigError naming the nearest one."""
    if name not in ALGORITHMS:
        raise ConfigError(f"algorithm {name!r} is unknown{nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]

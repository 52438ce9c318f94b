"""A sparse strict reward against the size of groups: five choices, all right or nothing, as many attempts in all."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Curve, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Table, by_group, softmax
from flyball.rl.advantage import grpo_advantages

CHOICES, ACTIONS, ATTEMPTS, RATE = 5, 3, 20_480, 0.5
SIZES = {"groups of 4": 4, "groups of 16": 16, "groups of 64": 64}
BATCH = 64


def run(arm: str, draws: Draws) -> list[Metrics]:
    """64 attempts an update, in groups of 4, 16 or 64; the right choices start a little likelier (2 % all right)."""
    seeds, size = len(draws.seeds), SIZES[arm]
    start = np.zeros((seeds, CHOICES, ACTIONS))
    start[..., 0] = 0.5
    policy, curve, mixed = Table(start), Curve(), np.zeros(seeds)
    states = np.broadcast_to(np.arange(CHOICES), (seeds, BATCH, CHOICES))
    for step in range(ATTEMPTS // BATCH):
        actions = policy.draw(states, draws)
        reward = (actions == 0).all(-1).astype(np.float64)
        advantages = by_group(reward, size, grpo_advantages)
        if step < 20:
            mixed += (np.abs(advantages).reshape(seeds, -1, size).max(-1) > 0).mean(-1) / 20
        pushes = np.broadcast_to(advantages[..., None], actions.shape) / actions[0].size
        policy.ascend(states, actions, pushes, RATE)
        spent = (step + 1) * BATCH
        curve.add(spent, spent * CHOICES * (1 + TRAIN_PRICE), success(policy))
    half = ATTEMPTS // 2
    return per_seed(
        **{
            "success@samples": curve.at(samples=half),
            "success@cost": curve.at(cost=half * CHOICES * (1 + TRAIN_PRICE)),
            "end": success(policy),
            "mixed": mixed,
        }
    )


def success(policy: Table) -> Floats:
    """Exact: the chance that all choices are right, [S]."""
    return softmax(policy.logits)[..., 0].prod(-1)


ROW = Row(
    name="sparse_batch",
    title="Sparse strict reward against group size",
    paper="2503.14476: informative groups are 1 - p^G - (1-p)^G, 34 % at p 0.1 and G 4, 81 % at G 16",
    policy="softmax table, 5 states",
    arms=tuple(SIZES),
    run=run,
    checks=(
        Check(
            "more_groups_teach",
            "with 2 % success more groups of 64 are mixed than of 4",
            "mixed",
            "groups of 64",
            "groups of 4",
        ),
        Check(
            "larger_learns_more",
            "groups of 64 reach more success than groups of 4 at equal samples",
            "success@samples",
            "groups of 64",
            "groups of 4",
        ),
        Check("at_equal_cost", "the same at equal cost", "success@cost", "groups of 64", "groups of 4"),
    ),
)

"""SEC, the bandit over families, against random order: four families that need 1, 2, 4 and 8 right choices in a row."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Curve, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Ints, Table, by_group
from flyball.rl.advantage import dr_grpo_advantages
from flyball.tasks.curriculum import family_shares, updated_values

NEEDS = np.array([1, 2, 4, 8])
CHOICES, ACTIONS, SIZE, GROUPS, STEPS, RATE = 8, 3, 8, 8, 600, 4.0
TEMPERATURE, STEP_SIZE, FLOOR = 0.1, 0.5, 0.08  # 0.02 for each family
FAMILIES = tuple(f"{needs} right" for needs in NEEDS)


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Families share their choices, so an easy one prepares a hard one. A family is paid its mean |A|, no std."""
    seeds, batch = len(draws.seeds), SIZE * GROUPS
    policy, curve = Table(np.zeros((seeds, CHOICES, ACTIONS))), Curve()
    states = np.broadcast_to(np.arange(CHOICES), (seeds, batch, CHOICES))
    worth, spent = [dict.fromkeys(FAMILIES, 0.0) for _ in draws.seeds], np.zeros(seeds)
    for step in range(STEPS):
        chances = np.array([[*family_shares(values, TEMPERATURE, FLOOR).values()] for values in worth])
        if arm == "random":
            chances = np.full(chances.shape, 1 / len(NEEDS))
        family = np.repeat(draws.choose(np.repeat(chances[:, None], GROUPS, 1)), SIZE, -1)
        made = np.arange(CHOICES) < NEEDS[family][..., None]
        actions = policy.draw(states, draws)
        reward = ((actions == 0) | ~made).all(-1).astype(np.float64)
        advantages = by_group(reward, SIZE, dr_grpo_advantages)
        policy.ascend(states, actions, advantages[..., None] * made / made.sum((1, 2), keepdims=True), RATE)
        paid = [signals(a, f) for a, f in zip(advantages, family, strict=True)]
        worth = [updated_values(values, found, STEP_SIZE) for values, found in zip(worth, paid, strict=True)]
        spent = spent + made.sum((1, 2)) * (1 + TRAIN_PRICE)
        curve.add((step + 1) * batch, spent, success(policy)[:, -1])
    budget = 0.5 * STEPS * batch
    return per_seed(
        **{
            "hard@samples": curve.at(samples=budget),
            "hard@cost": curve.at(cost=budget * 3 * (1 + TRAIN_PRICE)),
            "mean": success(policy).mean(-1),
        }
    )


def signals(advantages: Floats, family: Ints) -> dict[str, float]:
    """Mean |A| of every family that was drawn."""
    return {FAMILIES[c]: float(np.abs(advantages[family == c]).mean()) for c in np.unique(family)}


def success(policy: Table) -> Floats:
    """Exact, by family, [S, 4]."""
    right = policy.probabilities()[..., 0]
    return np.stack([right[:, :n].prod(-1) for n in NEEDS], -1)


ROW = Row(
    name="sec",
    title="SEC against random order",
    paper="2505.14970: +13 % to +33 % relative on the hard tests (second-hand)",
    policy="softmax table, 8 states",
    arms=("random", "sec"),
    run=run,
    checks=(
        Check(
            "hard_families",
            "the bandit solves the hardest family more often than random order at equal samples",
            "hard@samples",
            "sec",
            "random",
        ),
        Check("at_equal_cost", "the same at equal cost, where hard tasks cost more", "hard@cost", "sec", "random"),
    ),
)

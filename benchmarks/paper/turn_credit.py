"""Turn-level against trajectory-level credit: ten turns, each right or wrong, each rewarded with luck in it."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Curve, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Episodes, Table
from flyball.rl.advantage import rloo_advantages
from flyball.rl.credit import turn_rloo, whole_attempt

TASKS, TURNS, ACTIONS, SIZE, STEPS, RATE = 3, 10, 4, 4, 200, 40.0
LUCK = 0.2
BATCH = TASKS * SIZE
CREDIT = {
    "outcome": whole_attempt(rloo_advantages),
    "trajectory": whole_attempt(rloo_advantages),
    "turn": turn_rloo,
}


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Success after STEPS updates. `outcome`: nothing on turns; the other two earn the same, placed differently."""
    seeds = len(draws.seeds)
    right = np.floor(draws.uniform(TASKS, TURNS) * ACTIONS).astype(np.int64)
    policy = Table(np.zeros((seeds, TASKS * TURNS, ACTIONS)))
    task = np.repeat(np.arange(TASKS), SIZE)
    states = np.broadcast_to(task[:, None] * TURNS + np.arange(TURNS), (seeds, BATCH, TURNS))
    curve = Curve()
    for step in range(STEPS):
        actions = policy.draw(states, draws)
        hit = actions == right[:, task]
        earned = hit / TURNS + LUCK * draws.normal(BATCH, TURNS)
        turns = earned if arm != "outcome" else np.zeros(hit.shape)
        made = Episodes(states, actions, np.ones(hit.shape, np.bool_), turns, hit.all(-1).astype(np.float64), SIZE)
        policy.ascend(states, actions, made.pushes(CREDIT[arm]), RATE)
        attempts = (step + 1) * BATCH
        curve.add(attempts, attempts * TURNS * (1 + TRAIN_PRICE), success(policy, right))
    return per_seed(
        **{
            "success@samples": curve.at(samples=STEPS * BATCH // 2),
            "success@cost": curve.at(cost=STEPS * BATCH // 2 * TURNS * (1 + TRAIN_PRICE)),
            "end": success(policy, right),
        }
    )


def success(policy: Table, right: np.ndarray) -> Floats:
    """Exact: the chance that every turn is right, mean over tasks, [S]."""
    chances = np.take_along_axis(policy.probabilities(), right.reshape(len(right), -1, 1), -1)
    return chances.reshape(right.shape).prod(-1).mean(-1)


ROW = Row(
    name="turn_credit",
    title="Turn-level credit against trajectory-level",
    paper="2505.11821: 50 % exact match with rewards on turns, 20-30 % for the baselines (abstract, second-hand)",
    policy="softmax table, 30 states",
    arms=tuple(CREDIT),
    run=run,
    checks=(
        Check(
            "turn_over_trajectory",
            "rewards credited to their turn teach more than the same rewards summed over the attempt",
            "success@samples",
            "turn",
            "trajectory",
        ),
        Check("at_equal_cost", "the same at equal cost", "success@cost", "turn", "trajectory"),
        Check(
            "turn_over_outcome",
            "rewards on turns teach more than the outcome alone",
            "success@samples",
            "turn",
            "outcome",
        ),
    ),
)

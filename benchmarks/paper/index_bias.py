"""The bias of normalising by turn index: stop or go on, every turn costs 0.1 and changes nothing."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Episodes, Table
from flyball.rl.credit import mt_grpo, turn_rloo

TURNS, SIZE, GROUPS, STEPS, RATE, COST = 5, 4, 8, 120, 0.4, 0.1
ARMS = {
    "turn_rloo": (turn_rloo, COST),
    "turn_rloo, free turns": (turn_rloo, 0.0),
    "mt_grpo": (mt_grpo, COST),
    "mt_grpo, free turns": (mt_grpo, 0.0),
}


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Expected turns before and after STEPS updates; success is a coin whatever the policy does.

    Free turns are the control: the noise of the coin alone moves turns too.
    """
    credit, price = ARMS[arm]
    seeds, batch = len(draws.seeds), SIZE * GROUPS
    policy = Table(np.tile(np.array([0.0, 1.0]), (seeds, TURNS, 1)))
    states = np.broadcast_to(np.arange(TURNS), (seeds, batch, TURNS))
    before, calls = turns(policy), np.zeros(seeds)
    for _ in range(STEPS):
        actions = policy.draw(states, draws)
        made = np.cumprod(np.concatenate([np.ones((seeds, batch, 1)), actions[..., :-1]], -1), -1) > 0
        outcomes = (draws.uniform(batch) < 0.5).astype(np.float64)
        episodes = Episodes(states, actions, made, np.where(made, -price, 0.0), outcomes, SIZE)
        policy.ascend(states, actions, episodes.pushes(credit, "seq-mean-token-sum"), RATE)
        calls += made.sum((1, 2))
    return per_seed(turns=turns(policy), change=turns(policy) - before, cost=calls * (1 + TRAIN_PRICE))


def turns(policy: Table) -> Floats:
    """Exact: 1 + P(go on) + P(go on twice) + ..., [S]."""
    on = policy.probabilities()[:, : TURNS - 1, 1]
    return 1 + np.cumprod(on, -1).sum(-1)


ROW = Row(
    name="index_bias",
    title="Bias of normalising rewards by turn index",
    paper="no number: our derivation for 2505.11821 v1 with K turns (2604.02869), by enumeration in tests/rl",
    policy="softmax table, 5 states",
    arms=tuple(ARMS),
    run=run,
    checks=(
        Check(
            "cost_is_felt",
            "under turn_rloo a constant cost per turn reduces turns",
            "turns",
            "turn_rloo",
            "turn_rloo, free turns",
            wanted="lower",
        ),
        Check(
            "mt_grpo_does_not_feel_it",
            "under mt_grpo it does not: turns are within 0.1 of those of free turns",
            "turns",
            "mt_grpo",
            "mt_grpo, free turns",
            wanted="kept",
            margin=0.1,
        ),
        Check(
            "less_than_mt_grpo",
            "turn_rloo ends with fewer turns than mt_grpo",
            "turns",
            "turn_rloo",
            "mt_grpo",
            wanted="lower",
        ),
    ),
)

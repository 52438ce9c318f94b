"""Partial credit that gets farmed, and the gate that cures it: work, farm or finish, for at most eight turns."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Ints, Table, by_group
from flyball.rl.advantage import rloo_advantages

TURNS, PARTS, SIZE, GROUPS, STEPS, RATE = 8, 3, 8, 8, 150, 6.0
WORK, FARM, FINISH = range(3)
CREDIT, WORKS = 0.15, 0.7


def run(arm: str, draws: Draws) -> list[Metrics]:
    """`strict`: success alone. `ungated`: and CREDIT per part done or farmed. `gated`: that only on success, capped."""
    seeds, batch = len(draws.seeds), SIZE * GROUPS
    policy = Table(np.zeros((seeds, PARTS + 1, 3)))
    calls = np.zeros(seeds)
    for _ in range(STEPS):
        states, actions, made, credit, success = attempts(policy, draws, batch)
        reward = {
            "strict": success,
            "ungated": success + credit,
            "gated": success * (1 + credit.clip(0, CREDIT * PARTS)),
        }
        advantages = by_group(reward[arm], SIZE, rloo_advantages)[..., None] * made
        policy.ascend(states, actions, advantages / made.sum((1, 2), keepdims=True), RATE)
        calls += made.sum((1, 2))
    *_, credit, success = attempts(policy, draws, 512)
    return per_seed(success=success.mean(-1), credit=credit.mean(-1), cost=calls * (1 + TRAIN_PRICE))


def attempts(policy: Table, draws: Draws, batch: int) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """States, actions and made [S, B, TURNS]; partial credit and success [S, B]. A state is how many parts are done."""
    shape = (len(draws.seeds), batch)
    done, on = np.zeros(shape, np.int64), np.ones(shape, np.bool_)
    credit, success = np.zeros(shape), np.zeros(shape)
    states, actions, made = (np.zeros((*shape, TURNS), np.int64) for _ in range(3))
    for k in range(TURNS):
        action = policy.draw(done, draws)
        states[..., k], actions[..., k], made[..., k] = done, action, on
        part = on & (action == WORK) & (done < PARTS) & (draws.uniform(batch) < WORKS)
        credit += CREDIT * (part | (on & (action == FARM)))
        success += on & (action == FINISH) & (done == PARTS)
        done = done + part
        on = on & (action != FINISH)
    return states, actions, made.astype(np.float64), credit, success


ROW = Row(
    name="farmed_credit",
    title="Partial credit that gets farmed, and its gated cure",
    paper="2604.02869: naive dense rewards 54.0 where the model started at 58.0 (second-hand)",
    policy="softmax table, 4 states",
    arms=("strict", "ungated", "gated"),
    run=run,
    checks=(
        Check(
            "farmed",
            "ungated partial credit ends with less success than success alone",
            "success",
            "ungated",
            "strict",
            wanted="lower",
        ),
        Check("farmed_reward", "while it collects more partial credit", "credit", "ungated", "strict"),
        Check(
            "cured",
            "paid only on success, and capped, it ends with more success than ungated",
            "success",
            "gated",
            "ungated",
        ),
        Check(
            "cure_is_free",
            "the gate keeps the success of the strict reward within 5 points",
            "success",
            "gated",
            "strict",
            wanted="kept",
            margin=0.05,
        ),
    ),
)

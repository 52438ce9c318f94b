"""Parallel tool calls: six look-ups, some can be made at once; each step costs, and so does a premature call."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Ints, Table, by_group
from flyball.rl.advantage import rloo_advantages

NEEDED, WIDTHS, MOST, STEPS_AT_MOST, SIZE, GROUPS, STEPS, RATE = 6, 3, 4, 12, 8, 4, 120, 6.0
STEP_COST, ERROR_COST = 0.05, 0.03


def run(arm: str, draws: Draws) -> list[Metrics]:
    """The state is how many look-ups are ready (1 to 3), the action how many calls to send at once (1 to 4).

    `one at a time` sends one whatever it wanted. Calls beyond what is ready fail and cost.
    """
    seeds, batch = len(draws.seeds), SIZE * GROUPS
    policy, spent = Table(np.zeros((seeds, WIDTHS, MOST))), np.zeros(seeds)
    start = attempts(policy, draws, 256, arm)
    for _ in range(STEPS):
        states, actions, made, success, errors = attempts(policy, draws, batch, arm)
        reward = success - STEP_COST * made.sum(-1) - ERROR_COST * errors
        advantages = by_group(reward, SIZE, rloo_advantages)[..., None] * made
        policy.ascend(states, actions, advantages / made.sum((1, 2), keepdims=True), RATE)
        spent += made.sum((1, 2)) * (1 + TRAIN_PRICE)
    *_, made, success, errors = attempts(policy, draws, 256, arm)
    return per_seed(
        steps=made.sum(-1).mean(-1),
        success=success.mean(-1),
        errors=errors.mean(-1),
        errors_change=errors.mean(-1) - start[-1].mean(-1),
        cost=spent,
    )


def attempts(policy: Table, draws: Draws, batch: int, arm: str) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """States, actions, made [S, B, steps]; success and calls that failed [S, B]."""
    shape = (len(draws.seeds), batch)
    left, errors = np.full(shape, NEEDED), np.zeros(shape)
    states, actions, made = (np.zeros((*shape, STEPS_AT_MOST), np.int64) for _ in range(3))
    for k in range(STEPS_AT_MOST):
        on = left > 0
        width = np.floor(draws.uniform(batch) * WIDTHS).astype(np.int64)
        action = policy.draw(width, draws)
        sent = np.ones(shape, np.int64) if arm == "one at a time" else action + 1
        useful = np.minimum(np.minimum(sent, width + 1), left)
        states[..., k], actions[..., k], made[..., k] = width, action, on
        errors += on * (sent - useful)
        left = left - on * useful
    return states, actions, made.astype(np.float64), (left == 0).astype(np.float64), errors


ROW = Row(
    name="parallel_calls",
    title="Parallel tool calls",
    paper="no number quoted; the mechanism alone",
    policy="softmax table, 3 states of 4 actions",
    arms=("one at a time", "parallel"),
    run=run,
    checks=(
        Check(
            "steps_fall",
            "with parallel calls sequential steps fall",
            "steps",
            "parallel",
            "one at a time",
            wanted="lower",
        ),
        Check(
            "success_kept",
            "success is kept within 2 points",
            "success",
            "parallel",
            "one at a time",
            wanted="kept",
            margin=0.02,
        ),
        Check("errors_fall", "premature calls become fewer in training", "errors_change", "parallel", wanted="lower"),
    ),
)

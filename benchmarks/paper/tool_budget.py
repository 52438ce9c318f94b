"""A price per tool call: a policy that calls too often, on tasks that need one to four calls."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Metrics, Row, per_seed
from benchmarks.paper.table import Table, by_group
from flyball.rl.advantage import rloo_advantages

NEEDS, MOST, SIZE, STEPS, RATE = np.array([1, 2, 3, 4]), 10, 16, 200, 8.0
PRICES = {"free": 0.0, "price 0.03": 0.03, "price 0.4": 0.4}
ENOUGH, TOO_FEW = 0.9, 0.1


def run(arm: str, draws: Draws) -> list[Metrics]:
    """The policy decides for each task how many calls to make, 0 to 9, and starts at six to nine."""
    seeds, tasks = len(draws.seeds), np.repeat(np.arange(len(NEEDS)), SIZE)
    policy = Table(np.tile(np.where(np.arange(MOST) >= 6, 1.5, 0.0), (seeds, len(NEEDS), 1)))
    states = np.broadcast_to(tasks, (seeds, len(tasks)))
    chance = np.where(np.arange(MOST) >= NEEDS[:, None], ENOUGH, TOO_FEW)  # [task, calls]
    cost = np.zeros(seeds)
    for _ in range(STEPS):
        calls = policy.draw(states, draws)
        success = (draws.uniform(len(tasks)) < chance[states, calls]).astype(np.float64)
        advantages = by_group(success - PRICES[arm] * calls, SIZE, rloo_advantages)
        policy.ascend(states, calls, advantages / len(tasks), RATE)
        cost += (1 + calls).sum(-1) * (1 + TRAIN_PRICE)
    p = policy.probabilities()
    calls_of_all = p.mean(1)
    p95 = (calls_of_all.cumsum(-1) < 0.95).sum(-1).astype(np.float64)
    return per_seed(p95_calls=p95, success=(p * chance).sum(-1).mean(-1), cost=cost)


ROW = Row(
    name="tool_budget",
    title="A budget for tool calls",
    paper="2505.11821 v2: -0.1 x searches so far; a penalty alone teaches never to search",
    policy="softmax table, 4 states of 10 actions",
    arms=tuple(PRICES),
    run=run,
    checks=(
        Check(
            "p95_falls",
            "a price of 0.03 a call lowers the 95th percentile of calls",
            "p95_calls",
            "price 0.03",
            "free",
            wanted="lower",
        ),
        Check(
            "success_kept",
            "and keeps success within 2 points",
            "success",
            "price 0.03",
            "free",
            wanted="kept",
            margin=0.02,
        ),
        Check(
            "too_dear",
            "a price of 0.4 loses success: the policy stops calling",
            "success",
            "price 0.4",
            "free",
            wanted="lower",
        ),
    ),
)

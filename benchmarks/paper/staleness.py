"""Rollouts k updates old, with and without a correction: k = 0, 1, 4, 8, one update per batch."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from benchmarks.paper.mini import Check, Draws, Metrics, Row, per_seed
from benchmarks.paper.tokens import HARDEST, PROMPTS, Meter, evaluated, rollouts, started, update, without_kl
from flyball.rl.advantage import rloo_advantages
from flyball.rl.algorithms import algorithm

SIZE, GROUPS, STEPS, RATE = 8, 8, 120, 0.02
COST = 20_000.0  # the budget in the price list's units; in turn it is spent after about half of the steps
ARMS = {"k=0": (0, "none")} | {
    f"k={k}{', corrected' if gap == 'tis' else ''}": (k, gap) for k in (1, 4, 8) for gap in ("none", "tis")
}


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Uncorrected: old tokens pass for the policy's own. Corrected: token weights min(pi/mu, 2).

    Price: in turn an update waits for its rollouts, so both count; with k >= 1 they overlap and the longer counts.
    """
    lag, gap = ARMS[arm]
    row = without_kl(algorithm("rloo"), correction=gap)
    world, policy = started(draws, 1 + np.arange(PROMPTS) % HARDEST)
    optimizer = torch.optim.Adam(policy.weights.values(), lr=RATE)
    samplers, meter = deque([policy.copy()], maxlen=lag + 1), Meter(len(draws.seeds))
    for step in range(STEPS):
        prompts = np.floor(draws.uniform(GROUPS) * PROMPTS).astype(np.int64)
        batch = rollouts(samplers[0], world, prompts, SIZE, row, rloo_advantages, draws)
        before = meter.cost
        meter.rolled_out(batch)
        meter.cost = meter.cost if lag else meter.cost + 0.5 * (meter.cost - before)
        update(policy, optimizer, batch, row, policy, 1, on_policy=True)
        samplers.append(policy.copy())
        if step % 2:
            meter.seen(evaluated(policy, world, draws))
    spent = STEPS * SIZE * GROUPS
    return per_seed(
        **{
            "success@samples": meter.curve.at(samples=spent),
            "success@cost": meter.curve.at(cost=COST),
            "cost": meter.cost,
        }
    )


ROW = Row(
    name="staleness",
    title="Stale rollouts with and without correction",
    paper="AReaL 2505.24298: staleness up to 8 without loss with the decoupled loss, 2.77x faster (second-hand)",
    policy="network of about 1,900 parameters, token-level",
    arms=tuple(ARMS),
    run=run,
    checks=(
        Check(
            "stale_hurts",
            "8 updates old and uncorrected, success is lower at equal samples",
            "success@samples",
            "k=8",
            "k=0",
            wanted="lower",
        ),
        Check(
            "corrected_8",
            "at k = 8 the correction ends with more success than none",
            "success@samples",
            "k=8, corrected",
            "k=8",
        ),
        Check(
            "corrected_4",
            "at k = 4 the correction ends with more success than none",
            "success@samples",
            "k=4, corrected",
            "k=4",
        ),
        Check(
            "corrected_1",
            "at k = 1 the correction loses nothing (2 points) against in turn",
            "success@samples",
            "k=1, corrected",
            "k=0",
            wanted="kept",
            margin=0.02,
        ),
        Check(
            "overlap_pays",
            "at equal cost k = 1, overlapped and corrected, is ahead of in turn",
            "success@cost",
            "k=1, corrected",
            "k=0",
        ),
    ),
)

"""DAPO against GRPO as published, and the additive ablation in the paper's order; reward 1 or -1, 4 updates a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmarks.paper.mini import Check, Draws, Metrics, Row, per_seed
from benchmarks.paper.tokens import (
    HARDEST,
    PROMPTS,
    Batch,
    Meter,
    Policy,
    World,
    evaluated,
    mixed_groups,
    rollouts,
    started,
    update,
)
from flyball.rl.advantage import grpo_advantages
from flyball.rl.algorithms import Algorithm, algorithm

SIZE, GROUPS, STEPS, PARTS, RATE, MOST_ROUNDS = 8, 8, 100, 4, 0.01, 4
PUBLISHED = algorithm("grpo")
NAIVE = replace(PUBLISHED, kl_coef=0.0)
FILTER = replace(NAIVE, overlong="filter")
HIGHER = replace(FILTER, clip_ratio_high=0.28)
PUNISH = replace(HIGHER, overlong="punish")
TOKEN = replace(PUNISH, loss_agg_mode="token-mean")
ARMS: dict[str, Algorithm] = {
    "GRPO as published": PUBLISHED,
    "without KL": NAIVE,
    "+ overlong filter": FILTER,
    "+ clip-higher": HIGHER,
    "+ soft punishment": PUNISH,
    "+ token-level loss": TOKEN,
    "+ dynamic sampling (DAPO)": TOKEN,
}
NAMES = tuple(ARMS)


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Success at equal samples and equal cost: what the slowest spender, dynamic sampling, has spent half-way on."""
    row, dynamic = ARMS[arm], arm == NAMES[-1]
    world, policy = started(draws, 1 + np.arange(PROMPTS) % HARDEST)
    reference, optimizer = policy.copy(), torch.optim.Adam(policy.weights.values(), lr=RATE)
    meter = Meter(len(draws.seeds))
    for step in range(STEPS):
        batch = collected(policy, world, row, draws, meter, MOST_ROUNDS if dynamic else 1)
        update(policy, optimizer, batch, row, reference, PARTS)
        meter.trained(batch)
        if step % 2:
            meter.seen(evaluated(policy, world, draws))
    attempts = STEPS * SIZE * GROUPS
    return per_seed(
        **{
            "success@samples": meter.curve.at(samples=attempts * 0.9),
            "success@cost": meter.curve.at(cost=attempts * 4.0),
            "success@updates": evaluated(policy, world, draws, 16),
            "samples": meter.samples,
            "cost": meter.cost,
        }
    )


def collected(policy: Policy, world: World, row: Algorithm, draws: Draws, meter: Meter, rounds: int) -> Batch:
    """One round as it comes; or rounds until every seed has GROUPS mixed groups, each seed paying for what it needed.

    Groups that are still missing after the last round are filled with some that teach nothing.
    """
    made, need = [], np.full(len(draws.seeds), GROUPS)
    for _ in range(rounds):
        prompts = np.floor(draws.uniform(GROUPS) * PROMPTS).astype(np.int64)
        batch = rollouts(policy, world, prompts, SIZE, row, grpo_advantages, draws, wrong=-1.0)
        meter.rolled_out(batch, np.broadcast_to((need > 0)[:, None], batch.used.shape))
        made.append(batch)
        need = need - mixed_groups(batch, SIZE).sum(-1)
        if rounds == 1:
            return batch
    whole = Batch(
        *(
            torch.cat([vars(b)[name] for b in made], 1)
            if isinstance(value, torch.Tensor)
            else np.concatenate([vars(b)[name] for b in made], 1)
            for name, value in vars(made[0]).items()
        )
    )
    order = np.argsort(~mixed_groups(whole, SIZE), axis=-1, kind="stable")[:, :GROUPS]
    return whole.rows((order[..., None] * SIZE + np.arange(SIZE)).reshape(len(order), -1))


def _step(name: str, what: str, at: int) -> Check:
    return Check(name, f"{what} adds success at equal samples", "success@samples", NAMES[at], NAMES[at - 1])


ROW = Row(
    name="dapo",
    title="DAPO against GRPO, and its parts one after another",
    paper="2503.14476, AIME24: GRPO 30, + filter 36, + clip-higher 38, + punishment 41, + token loss 42, DAPO 50",
    policy="network of about 1,900 parameters, token-level",
    arms=NAMES,
    run=run,
    checks=(
        Check(
            "dapo_over_grpo",
            "DAPO reaches more success than GRPO as published at equal samples",
            "success@samples",
            NAMES[-1],
            NAMES[0],
        ),
        Check("dapo_at_equal_cost", "the same at equal cost", "success@cost", NAMES[-1], NAMES[0]),
        Check("dapo_at_equal_updates", "the same after as many updates", "success@updates", NAMES[-1], NAMES[0]),
        _step("without_kl", "no KL", 1),
        _step("filter", "overlong filtering", 2),
        _step("clip_higher", "clip-higher", 3),
        _step("punishment", "soft punishment in place of the filter", 4),
        _step("token_loss", "the token-level loss", 5),
        Check("dynamic", "dynamic sampling adds success after as many updates", "success@updates", NAMES[6], NAMES[5]),
        Check("dynamic_at_samples", "and at equal samples", "success@samples", NAMES[6], NAMES[5]),
    ),
)

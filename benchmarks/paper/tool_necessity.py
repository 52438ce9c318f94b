"""The tool-necessity filter: a third of the tasks needs the tool, a third does not, a third is hopeless."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Curve, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import Table, by_group
from flyball.rl.advantage import rloo_advantages
from flyball.tasks.curriculum import needs_tools

TASKS, TRIALS, SIZE, GROUPS, RATE, CALL_COST = 60, 8, 8, 4, 1.5, 0.1
WAYS, SAMPLES = 5, 4_800
NECESSARY, EASY, HOPELESS = range(3)
WITHOUT = np.array([0.05, 0.95, 0.0])
USE, HOW = 0, 1


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Two decisions, shared by all tasks: use the tool or not, and which of five ways to use it (one works).

    The filter tries each task with and without the tool first; its attempts are part of both budgets. As a policy that
    cannot yet tell the tasks apart would, it has one habit for all.
    """
    seeds = len(draws.seeds)
    kind = np.arange(TASKS) % 3
    logits = np.zeros((seeds, 2, WAYS))
    logits[:, USE, 2:] = -30.0  # two actions: 0 without, 1 with
    logits[:, HOW, 0] = 0.7
    policy, curve = Table(logits), Curve()
    pool, samples = np.ones((seeds, TASKS), np.bool_), 0
    if arm == "filtered":
        pool, samples = filtered(policy, kind, draws), 2 * TRIALS * TASKS
    while samples < SAMPLES:
        chances = pool / pool.sum(-1, keepdims=True)
        chosen = np.repeat(draws.choose(np.repeat(chances[:, None], GROUPS, 1)), SIZE, -1)
        use, way = (policy.draw(np.full(chosen.shape, s), draws) for s in (USE, HOW))
        reward = (draws.uniform(chosen.shape[1]) < solved(kind[chosen], use, way)) - CALL_COST * use
        advantages = by_group(reward, SIZE, rloo_advantages) / chosen.shape[1]
        policy.ascend(np.full(chosen.shape, USE), use, advantages, RATE)
        policy.ascend(np.full(chosen.shape, HOW), way, advantages * use, RATE)
        samples += chosen.shape[1]
        trained = samples - (2 * TRIALS * TASKS if arm == "filtered" else 0)
        curve.add(samples, samples + TRAIN_PRICE * trained, success(policy))
    return per_seed(
        **{
            "success@samples": curve.at(samples=SAMPLES),
            "success@cost": curve.at(cost=SAMPLES + TRAIN_PRICE * (SAMPLES - 2 * TRIALS * TASKS)),
            "kept_share": pool.mean(-1),
            "kept_wrongly": (pool * (kind != NECESSARY)).sum(-1) / pool.sum(-1),
        }
    )


def solved(kind: np.ndarray, use: np.ndarray, way: np.ndarray) -> Floats:
    """Chance of success of an attempt."""
    with_tool = np.where(kind == NECESSARY, 0.95 * (way == 0), WITHOUT[kind])
    return np.where(use == 1, with_tool, WITHOUT[kind])


def filtered(policy: Table, kind: np.ndarray, draws: Draws) -> np.ndarray:
    """Which tasks pass, [S, TASKS], from TRIALS attempts with the tool and as many without."""
    shape = (len(draws.seeds), TASKS, TRIALS)
    kinds = np.broadcast_to(kind[:, None], shape)
    scores = []
    for use in (1, 0):
        way = policy.draw(np.full(shape, HOW), draws)
        chance = solved(kinds, np.full(shape, use), way)
        scores.append((draws.uniform(TASKS, TRIALS) < chance).mean(-1))
    passed = [
        needs_tools(dict(enumerate(used)), dict(enumerate(not_used)), gain=0.2, least_with=0.2, most_without=0.5)
        for used, not_used in zip(*scores, strict=True)
    ]
    return np.array([np.isin(np.arange(TASKS), kept) for kept in passed])


def success(policy: Table) -> Floats:
    """Exact, on tasks that need the tool, [S]."""
    p = policy.probabilities()
    return p[:, USE, 1] * 0.95 * p[:, HOW, 0] + p[:, USE, 0] * WITHOUT[NECESSARY]


ROW = Row(
    name="tool_necessity",
    title="Tool-necessity filter",
    paper="2509.18883: part of the data recipe; thresholds and its own effect are not published",
    policy="softmax table, 2 states shared by all tasks",
    arms=("all tasks", "filtered"),
    run=run,
    checks=(
        Check(
            "more_success",
            "trained on tasks that pass, those that need the tool are solved more often, the filter's attempts paid",
            "success@samples",
            "filtered",
            "all tasks",
        ),
        Check("at_equal_cost", "the same at equal cost", "success@cost", "filtered", "all tasks"),
    ),
)

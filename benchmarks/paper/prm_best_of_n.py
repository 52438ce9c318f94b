"""A process reward model from Monte Carlo returns (AgentPRM), used to pick each step among n; a tree of five steps."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import softmax
from flyball.rl.credit import Episode

DEPTH, ACTIONS, ATTEMPTS, N, DISCOUNT = 5, 3, 1_500, 4, 0.95
NODES = (ACTIONS**DEPTH - 1) // (ACTIONS - 1)
ARMS = ("policy", "prm best of 4", "prm of another tree", "prm best of 16")


def run(arm: str, draws: Draws) -> list[Metrics]:
    """Success of the policy alone, and with the PRM choosing each step among 4 or 16 drawn ones; exact.

    Cost: the attempts and the fit once, then the calls of 1,000 attempts that are served.
    """
    seeds = len(draws.seeds)
    worth = 0.9 * draws.uniform(ACTIONS**DEPTH) ** 4  # chance of success of each leaf
    policy = softmax(draws.normal(NODES, ACTIONS))
    seen = 0.9 * draws.uniform(ACTIONS**DEPTH) ** 4 if arm == "prm of another tree" else worth
    values = np.stack([fitted(p, w, draws, s) for s, (p, w) in enumerate(zip(policy, seen, strict=True))])
    n = {"policy": 1, "prm best of 16": 16}.get(arm, N)
    chosen = policy if n == 1 else best_of(policy, values, n)
    fit = ATTEMPTS * DEPTH * (1 + TRAIN_PRICE) if n > 1 else 0.0
    return per_seed(success=success(chosen, worth), cost=np.full(seeds, fit + 1_000 * DEPTH * n))


def fitted(policy: Floats, worth: Floats, draws: Draws, seed: int) -> Floats:
    """Mean discounted return-to-go over all attempts through (node, action), 0 for those never met; [NODES, A]."""
    stream = np.random.default_rng([draws.seeds[seed], 1])
    total, count = np.zeros((NODES, ACTIONS)), np.zeros((NODES, ACTIONS))
    for _ in range(ATTEMPTS):
        node, path = 0, []
        for _depth in range(DEPTH):
            action = int(stream.choice(ACTIONS, p=policy[node]))
            path.append((node, action))
            node = node * ACTIONS + 1 + action
        rewards = np.zeros(DEPTH)
        rewards[-1] = stream.random() < worth[node - NODES]
        for place, value in zip(path, Episode(rewards, 0.0).returns_to_go(DISCOUNT), strict=True):
            total[place] += value
            count[place] += 1
    return total / np.maximum(count, 1)


def best_of(policy: Floats, values: Floats, n: int) -> Floats:
    """The chance of each action when n are drawn and the one of the largest value is taken, [S, NODES, A]."""
    order = np.argsort(values, -1, kind="stable")
    ranked = np.take_along_axis(policy, order, -1).cumsum(-1)
    chances = np.diff(ranked**n, axis=-1, prepend=0.0)
    out = np.empty_like(chances)
    np.put_along_axis(out, order, chances, -1)
    return out


def success(policy: Floats, worth: Floats) -> Floats:
    """Exact, by going up the tree, [S]."""
    below = worth
    for depth in reversed(range(DEPTH)):
        first = (ACTIONS**depth - 1) // (ACTIONS - 1)
        nodes = policy[:, first : first + ACTIONS**depth]
        below = (nodes * below.reshape(len(below), -1, ACTIONS)).sum(-1)
    return below[:, 0]


ROW = Row(
    name="prm_best_of_n",
    title="Process reward model, best of n",
    paper="2502.10325: ALFWorld 88.1 after three iterations, about 91 with best of 16 (second-hand)",
    policy="softmax table, a tree of 121 nodes",
    arms=ARMS,
    run=run,
    checks=(
        Check(
            "best_of_4",
            "the PRM picking each step among 4 succeeds more often than the policy alone",
            "success",
            "prm best of 4",
            "policy",
        ),
        Check("best_of_16", "among 16 more often than among 4", "success", "prm best of 16", "prm best of 4"),
        Check(
            "not_any_prm",
            "it is the PRM and not the choosing: one of another world does worse",
            "success",
            "prm of another tree",
            "prm best of 4",
            wanted="lower",
        ),
    ),
)

"""Over-optimising a reward model, with its gold: a Bradley-Terry proxy on features, one of which goes bad in excess."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import softmax
from flyball.rl.advantage import rloo_advantages
from flyball.rl.preference import bradley_terry
from flyball.rl.token_credit import kl_rewards

ANSWERS, FEATURES, PAIRS, FIT_STEPS, SIZE, STEPS, RATE = 400, 6, 400, 200, 64, 300, 1.0
ARMS = {"no KL": 0.0, "KL 0.3": 0.3, "KL 1": 1.0, "gold reward": 0.0}


def run(arm: str, draws: Draws) -> list[Metrics]:
    """RL on the proxy from a uniform policy over 400 answers, with k1 in the reward; all values exact.

    Gold = w.x - 0.5 max(x_0, 0)^2: more of feature 0 (think of length) is good until it is not. The proxy is linear
    and fitted on pairs that the first policy drew, where feature 0 is mostly good; scores are centred and scaled there.
    """
    seeds = len(draws.seeds)
    x, w = draws.normal(ANSWERS, FEATURES), np.abs(draws.normal(FEATURES)) / FEATURES
    w[:, 0] = 1.0
    gold = (x * w[:, None]).sum(-1) - 0.5 * np.maximum(x[..., 0], 0) ** 2
    proxy = (x * fitted(x, gold, draws)[:, None]).sum(-1)
    proxy = (proxy - proxy.mean(-1, keepdims=True)) / proxy.std(-1, keepdims=True)
    reward = gold if arm == "gold reward" else proxy
    logits, best = np.zeros((seeds, ANSWERS)), np.full(seeds, -np.inf)
    start = gold.mean(-1)
    for _ in range(STEPS):
        policy = softmax(logits)
        drawn = draws.choose(np.repeat(policy[:, None], SIZE, 1))
        s = np.arange(seeds)[:, None]
        own, ref = np.log(policy)[s, drawn], np.full(drawn.shape, -np.log(ANSWERS))
        one = np.ones(1, np.bool_)
        shaped = np.array(
            [
                [kl_rewards(own[i, j, None], ref[i, j, None], one, ARMS[arm], r)[0] for j, r in enumerate(scores)]
                for i, scores in enumerate(reward[s, drawn])
            ]
        )
        advantages = np.stack([rloo_advantages(r) for r in shaped])
        push = np.zeros_like(logits)
        np.add.at(push, (np.broadcast_to(s, drawn.shape), drawn), advantages / SIZE)
        logits = logits + RATE * (push - push.sum(-1, keepdims=True) * policy)
        best = np.maximum(best, (softmax(logits) * gold).sum(-1))
    policy = softmax(logits)
    end, proxy_end = (policy * gold).sum(-1), (policy * proxy).sum(-1)
    return per_seed(
        gold=end - start,
        proxy=proxy_end - proxy.mean(-1),
        fall=end - best,
        kl=(policy * np.log(policy * ANSWERS)).sum(-1),
        cost=np.full(seeds, STEPS * SIZE * (1 + TRAIN_PRICE)),
    )


def fitted(x: Floats, gold: Floats, draws: Draws) -> Floats:
    """Weights [S, FEATURES] of a reward model on PAIRS pairs that were labelled by gold with logistic noise."""
    s = np.arange(len(x))[:, None]
    a, b = (np.floor(draws.uniform(PAIRS) * ANSWERS).astype(np.int64) for _ in range(2))
    first = draws.uniform(PAIRS) < 1 / (1 + np.exp(-3 * (gold[s, a] - gold[s, b])))
    chosen, rejected = np.where(first, a, b), np.where(first, b, a)
    weights = np.zeros((len(x), FEATURES))
    for _ in range(FIT_STEPS):
        scores = (x * weights[:, None]).sum(-1)
        _, up, down = bradley_terry(scores[s, chosen], scores[s, rejected])
        slope = (up[..., None] * x[s, chosen] + down[..., None] * x[s, rejected]).mean(1)
        weights = weights - 1.0 * slope
    return weights


ROW = Row(
    name="overoptimisation",
    title="Over-optimising a reward model",
    paper="2210.10760: gold rises, peaks and falls with sqrt(KL) while the proxy rises; RL peaks at d = exp(a/b - 1)",
    policy="softmax over 400 answers",
    arms=tuple(ARMS),
    run=run,
    checks=(
        Check("gold_falls", "without a KL gold falls from its peak", "fall", "no KL", wanted="lower"),
        Check("proxy_rises", "while the proxy ends above where a KL of 1 holds it", "proxy", "no KL", "KL 1"),
        Check("kl_helps", "a KL of 1 ends with more gold", "gold", "KL 1", "no KL"),
        Check("room_left", "gold as the reward ends with more gold than any proxy", "gold", "gold reward", "KL 1"),
    ),
)

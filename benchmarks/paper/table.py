"""A softmax policy kept as a table of logits, one per seed, and episodes of calls that our credit functions read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.paper.mini import Draws, Floats
from flyball.rl.advantage import Rewards
from flyball.rl.aggregate import loss_weights
from flyball.rl.credit import Credit, Episode

Ints = npt.NDArray[np.int64]


def softmax(logits: Floats) -> Floats:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Table:
    """Logits [S, N, A] of N states; every operation is over all seeds."""

    def __init__(self, logits: Floats) -> None:
        self.logits = logits.copy()

    def probabilities(self) -> Floats:
        return softmax(self.logits)

    def draw(self, states: Ints, draws: Draws) -> Ints:
        """Actions [S, ...] for states [S, ...]."""
        seeds = np.arange(len(states)).reshape(-1, *[1] * (states.ndim - 1))
        return draws.choose(self.probabilities()[seeds, states])

    def ascend(self, states: Ints, actions: Ints, pushes: Floats, rate: float) -> None:
        """logits += rate x sum of push x grad log pi(action | state); all [S, ...] of the same shape."""
        s = np.broadcast_to(np.arange(len(states)).reshape(-1, *[1] * (states.ndim - 1)), states.shape)
        gradient = np.zeros_like(self.logits)
        np.add.at(gradient, (s, states, actions), pushes)
        total = np.zeros(self.logits.shape[:2])
        np.add.at(total, (s, states), pushes)
        self.logits += rate * (gradient - total[..., None] * self.probabilities())


@dataclass(frozen=True)
class Episodes:
    """B attempts of up to K calls: [S, B, K], outcomes [S, B]; a group is `size` attempts that follow each other."""

    states: Ints
    actions: Ints
    made: npt.NDArray[np.bool_]
    turn_rewards: Floats
    outcomes: Floats
    size: int

    def pushes(self, credit: Credit, mode: str = "token-mean") -> Floats:
        """Loss weight x advantage of every call, [S, B, K], by our credit and aggregation."""
        out = np.zeros(self.turn_rewards.shape)
        for s in range(len(out)):
            weights = loss_weights(list(self.made[s]), mode)
            for start in range(0, out.shape[1], self.size):
                rows = range(start, start + self.size)
                group = [Episode(self.turn_rewards[s, b][self.made[s, b]], self.outcomes[s, b]) for b in rows]
                for b, advantages in zip(rows, credit(group), strict=True):
                    out[s, b][self.made[s, b]] = advantages
            out[s] *= weights
        return out


def by_group(rewards: Floats, size: int, estimator: Callable[[Rewards], Rewards]) -> Floats:
    """Advantages of outcomes: [S, B] rewards, groups of `size` -> [S, B]."""
    groups = rewards.reshape(-1, size)
    return np.stack([estimator(group) for group in groups]).reshape(rewards.shape)

"""Imitation, then RL, against each alone, out of distribution: demonstrations lean on a shortcut that stops working."""

from __future__ import annotations

import numpy as np

from benchmarks.paper.mini import TRAIN_PRICE, Check, Draws, Floats, Metrics, Row, per_seed
from benchmarks.paper.table import by_group, softmax
from flyball.rl.advantage import rloo_advantages

TASKS, STEPS_OF_TASK, ACTIONS, SIZE, GROUPS = 4, 4, 6, 8, 8
SFT_STEPS, RL_STEPS, SFT_RATE, RL_RATE = 60, 300, 20.0, 60.0
BY_SHORTCUT, AGREES = 0.4, 0.6
ARMS = ("sft", "rl", "sft_then_rl")


class Policy:
    """Logits of a step = those of its task + those of the shortcut shown with it: two tables that are added."""

    def __init__(self, seeds: int) -> None:
        self.core = np.zeros((seeds, TASKS * STEPS_OF_TASK, ACTIONS))
        self.shortcut = np.zeros((seeds, ACTIONS, ACTIONS))

    def chances(self, states: np.ndarray, hints: np.ndarray) -> Floats:
        """[S, B, K, A]."""
        s = np.arange(len(states))[:, None, None]
        return softmax(self.core[s, states] + self.shortcut[s, hints])

    def ascend(self, states: np.ndarray, hints: np.ndarray, actions: np.ndarray, pushes: Floats, rate: float) -> None:
        """Add rate x push x grad log pi to both tables."""
        s = np.broadcast_to(np.arange(len(states))[:, None, None], states.shape)
        slope = pushes[..., None] * (np.eye(ACTIONS)[actions] - self.chances(states, hints))
        np.add.at(self.core, (s, states), rate * slope)
        np.add.at(self.shortcut, (s, hints), rate * slope)


def run(arm: str, draws: Draws) -> list[Metrics]:
    """All steps of a task must be right. Out of distribution the hint never agrees with the right action."""
    seeds, batch = len(draws.seeds), SIZE * GROUPS
    right = np.floor(draws.uniform(TASKS, STEPS_OF_TASK) * ACTIONS).astype(np.int64)
    policy, cost = Policy(seeds), 0.0
    for _ in range(SFT_STEPS if arm != "rl" else 0):
        states, wanted, hints = shown(right, draws, batch, AGREES)
        demonstrated = np.where(draws.uniform(batch, STEPS_OF_TASK) < BY_SHORTCUT, hints, wanted)
        policy.ascend(states, hints, demonstrated, np.full(states.shape, 1 / states[0].size), SFT_RATE)
        cost += states[0].size * TRAIN_PRICE
    for _ in range(RL_STEPS if arm != "sft" else 0):
        states, wanted, hints = shown(right, draws, batch, AGREES)
        actions = draws.choose(policy.chances(states, hints))
        reward = (actions == wanted).all(-1).astype(np.float64)
        advantages = by_group(reward, SIZE, rloo_advantages)[..., None]
        policy.ascend(states, hints, actions, np.broadcast_to(advantages, states.shape) / states[0].size, RL_RATE)
        cost += states[0].size * (1 + TRAIN_PRICE)
    inside, outside = (success(policy, right, draws, agrees) for agrees in (AGREES, 0.0))
    return per_seed(inside=inside, outside=outside, cost=np.full(seeds, cost))


def shown(right: np.ndarray, draws: Draws, batch: int, agrees: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, right actions and hints [S, B, K]; attempts of a group share their task."""
    task = np.repeat(np.floor(draws.uniform(batch // SIZE) * TASKS).astype(np.int64), SIZE, -1)
    states = task[..., None] * STEPS_OF_TASK + np.arange(STEPS_OF_TASK)
    wanted = right[np.arange(len(task))[:, None], task]
    other = (wanted + 1 + np.floor(draws.uniform(batch, STEPS_OF_TASK) * (ACTIONS - 1)).astype(np.int64)) % ACTIONS
    hints = np.where(draws.uniform(batch, STEPS_OF_TASK) < agrees, wanted, other)
    return states, wanted, hints


def success(policy: Policy, right: np.ndarray, draws: Draws, agrees: float) -> Floats:
    """Exact over the actions of 512 drawn tasks, [S]."""
    states, wanted, hints = shown(right, draws, 512, agrees)
    chances = policy.chances(states, hints)
    return np.take_along_axis(chances, wanted[..., None], -1)[..., 0].prod(-1).mean(-1)


ROW = Row(
    name="sft_then_rl",
    title="Imitation, then RL, against each alone",
    paper="2501.12948: a cold start before RL; R1-Zero without it 71.0 on AIME24, R1 with it 79.8",
    policy="linear softmax over two tables, 16 states and 6 hints",
    arms=ARMS,
    run=run,
    checks=(
        Check(
            "over_sft",
            "out of distribution, RL after imitation succeeds more often than imitation alone",
            "outside",
            "sft_then_rl",
            "sft",
        ),
        Check("over_rl", "and more often than RL without a cold start", "outside", "sft_then_rl", "rl"),
        Check("inside", "in distribution too it is above imitation alone", "inside", "sft_then_rl", "sft"),
    ),
)

"""Credit by model call: the G attempts at one task -> one advantage per call of each.

An `Episode` is an attempt as credit sees it: K calls in the order of time, what each earned, and what the end earned.
A reward counts for the call that it is placed on and for every call sampled before it, whatever branch they are on.

Symbols: r_{i,k} reward placed on call k of attempt i, o_i reward of the end, R_i = sum_k r_{i,k} + o_i,
G_{i,k} = sum_{l >= k} r_{i,l} + o_i return-to-go, norm(x) = (x - mean x)/(std x + eps) with ddof 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyball.rl.advantage import Rewards, grpo_advantages, remax_advantages, rloo_advantages

Floats = npt.NDArray[np.float64]

TURN_EPS = 1e-4  # of the released code of turn-level GRPO


@dataclass(frozen=True)
class Episode:
    """`turn_rewards` [K] placed on calls, `outcome` placed on the end; `states` [K]: key of what each call was shown.

    `states` may be empty where no estimator reads it.
    """

    turn_rewards: Floats
    outcome: float
    states: tuple[Hashable, ...] = ()

    @property
    def reward(self) -> float:
        """R = everything it earned."""
        return float(self.turn_rewards.sum()) + self.outcome

    def returns_to_go(self, discount: float = 1.0) -> Floats:
        """sum_{l >= k} g^(l-k) r_l + g^(K-k) o, [K]."""
        out = np.zeros(len(self.turn_rewards))
        later = self.outcome
        for k in reversed(range(len(out))):
            later = out[k] = self.turn_rewards[k] + discount * later
        return out


Credit = Callable[[Sequence[Episode]], list[Floats]]
"""Episodes of one group -> advantages [K] of each."""


def whole_attempt(estimator: Callable[[Rewards], Rewards]) -> Credit:
    """Credit that gives every call of an attempt the attempt's advantage."""

    def credit(group: Sequence[Episode]) -> list[Floats]:
        advantages = estimator(np.array([e.reward for e in group], np.float64))
        return [np.full(len(e.turn_rewards), a) for e, a in zip(group, advantages, strict=True)]

    return credit


def turn_rloo(group: Sequence[Episode]) -> list[Floats]:
    """A_{i,k} = G_{i,k} - mean_{j != i, j reaches k} G_{j,k}: return-to-go minus leave-one-out mean at the decision.

    Every attempt that makes call k is at decision k, those that stop with it included, so the price of one more turn is
    part of what is compared; the others' returns do not depend on what i decides, so nothing is biased. An attempt that
    is alone at k is compared with the others' full returns. No std. Where nobody earns anything before the end there is
    nothing to tell calls apart by, and it is RLOO over whole attempts.
    Own derivation; the bias that it avoids: `mt_grpo`.
    """
    if not any(e.turn_rewards.any() for e in group):
        return whole_attempt(rloo_advantages)(group)
    to_go = [e.returns_to_go() for e in group]
    advantages = [np.zeros(len(g)) for g in to_go]
    for i, own in enumerate(to_go):
        others = [g for j, g in enumerate(to_go) if j != i]
        full = [e.reward for j, e in enumerate(group) if j != i]
        for k in range(len(own)) if others else ():
            present = [g[k] for g in others if len(g) > k]
            advantages[i][k] = own[k] - np.mean(present or full)
    return advantages


def remax(group: Sequence[Episode]) -> list[Floats]:
    """A_i = R_i - R of the greedy attempt, which is the last of the group and learns nothing.  ReMax, 2310.10505."""
    rewards = np.array([e.reward for e in group], np.float64)
    advantages = [*remax_advantages(rewards[:-1], rewards[-1]), 0.0] if len(group) else []
    return [np.full(len(e.turn_rewards), a) for e, a in zip(group, advantages, strict=True)]


def mt_grpo(group: Sequence[Episode]) -> list[Floats]:
    """A_{i,k} = sum_{l >= k} norm_k(r_{.,l})_i + norm(o)_i.  MT-GRPO, arXiv 2505.11821 (v1), K turns as in 2604.02869.

    Rewards of turn l are normalised among the attempts that have a turn l. That conditions on the decision to go on,
    and the subtracted mean then pays for longer attempts: a constant cost per turn is not felt. `turn_rloo` does not.
    """
    outcomes = grpo_advantages(np.array([e.outcome for e in group], np.float64), TURN_EPS)
    normalised = _by_turn(group, lambda rewards: grpo_advantages(rewards, TURN_EPS), [e.turn_rewards for e in group])
    return [np.cumsum(r[::-1])[::-1] + o for r, o in zip(normalised, outcomes, strict=True)]


def turn_return_hybrid(group: Sequence[Episode], discount: float = 0.9, outcome_weight: float = 0.3) -> list[Floats]:
    """A_{i,k} = norm_k(G_{.,k})_i + lam norm(o)_i, G discounted by g.  Hybrid of arXiv 2604.02869 (GTPO of 2511.14846).

    Normalised among the attempts that have a turn k, with the bias told at `mt_grpo`.
    """
    outcomes = grpo_advantages(np.array([e.outcome for e in group], np.float64), TURN_EPS)
    to_go = [e.returns_to_go(discount) for e in group]
    normalised = _by_turn(group, lambda returns: grpo_advantages(returns, TURN_EPS), to_go)
    return [g + outcome_weight * o for g, o in zip(normalised, outcomes, strict=True)]


def process_grpo(group: Sequence[Episode]) -> list[Floats]:
    """A_{i,k} = sum_{l >= k} of step rewards normalised over all steps of the group.  GRPO, 2402.03300, section 4.1.3.

    The reward of the end is the last call's step reward.
    """
    steps = [e.turn_rewards + _at_last(e) for e in group]
    every = np.concatenate(steps) if steps else np.zeros(0)
    normalised = np.split(grpo_advantages(every), np.cumsum([len(s) for s in steps])[:-1])
    return [np.cumsum(s[::-1])[::-1] for s in normalised]


def gigpo(group: Sequence[Episode], step_weight: float = 1.0, discount: float = 0.95) -> list[Floats]:
    """A_{i,k} = (R_i - mean R) + w A^S_{i,k}: the attempt in its group, plus the call among those made in its state.

    GiGPO, arXiv 2505.10978, eq. 3-8, in its form without std (F_norm = 1): both parts subtract the mean. A^S compares
    the discounted returns of all calls, of whichever attempt, that were shown the same; a state met once gives 0.
    """
    rewards = np.array([e.reward for e in group], np.float64)
    to_go = [e.returns_to_go(discount) for e in group]
    met: dict[Hashable, list[float]] = defaultdict(list)
    for episode, returns in zip(group, to_go, strict=True):
        for state, value in zip(episode.states, returns, strict=True):
            met[state].append(value)
    means = {state: float(np.mean(values)) for state, values in met.items()}
    return [
        reward - rewards.mean() + step_weight * (returns - np.array([means[s] for s in episode.states]))
        for episode, reward, returns in zip(group, rewards, to_go, strict=True)
    ]


def _by_turn(
    group: Sequence[Episode], normalise: Callable[[Rewards], Rewards], values: Sequence[Floats]
) -> list[Floats]:
    """Apply `normalise` to the k-th values of all attempts that have one, for every k."""
    out = [np.zeros(len(v)) for v in values]
    for k in range(max((len(v) for v in values), default=0)):
        present = [i for i, v in enumerate(values) if len(v) > k]
        for i, value in zip(present, normalise(np.array([values[i][k] for i in present])), strict=True):
            out[i][k] = value
    return out


def _at_last(episode: Episode) -> Floats:
    steps = np.zeros(len(episode.turn_rewards))
    steps[-1:] = episode.outcome
    return steps

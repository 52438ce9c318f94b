"""What a step is worth, from whole attempts: targets of process reward models.

AgentPRM (arXiv 2502.10325), eq. 1: Q(s, a) is the mean, over all attempts that went through state s with action a, of
the discounted return from there, sum_k g^(k - t) r_k. With one reward at the end it is the mean of g^(T - 1 - t) R. No
attempt is restarted in the middle, so the targets cost nothing but the attempts. The released code discounts from the
start of the attempt instead; this is the paper's form.

A state is all that was said and shown before the action, by token ids. Where states hardly repeat, a target is the
return of a single attempt, and a critic is the better choice (`visits` says so).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import TrainError
from flyball.rl.samples import episode_of
from flyball.types import Call, GradedAttempt, Missing


@dataclass(frozen=True)
class StepTarget:
    """The value of an action of an attempt (`call` is its position), and in how many attempts it was seen."""

    attempt_id: str
    call: int
    value: float
    visits: int


def step_targets(graded: Iterable[GradedAttempt], discount: float = 0.95) -> list[StepTarget]:
    """One target for each model call of each attempt that has a reward, in order.

    The order or the sharding of the attempts does not change them. Raises TrainError for a discount outside (0, 1] and
    for targets outside [0, 1], which a probability cannot learn.
    """
    if not 0 < discount <= 1:
        raise TrainError(f"discount is {discount}; it is above 0 and at most 1")
    returns: dict[str, list[float]] = {}
    steps: list[tuple[str, int, str]] = []
    for one in graded:
        if isinstance(one.reward, Missing):
            continue
        episode = episode_of(one)
        rewards = episode.turn_rewards.copy()
        rewards[-1:] += episode.outcome
        to_go = returns_to_go(rewards.tolist(), discount)
        for k, (key, value) in enumerate(zip(_keys(one.attempt.trajectory.calls), to_go, strict=True)):
            returns.setdefault(key, []).append(value)
            steps.append((one.attempt.attempt_id, k, key))
    targets = [StepTarget(name, k, float(np.mean(sorted(returns[key]))), len(returns[key])) for name, k, key in steps]
    wrong = [t for t in targets if not 0 <= t.value <= 1]
    if wrong:
        raise TrainError(
            f"attempt {wrong[0].attempt_id!r}: the return of step {wrong[0].call} is {wrong[0].value:.3g}; a process "
            "reward model learns values from 0 to 1, so give rewards in that range (success, or a score)"
        )
    return targets


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """sum over k >= t of g^(k - t) r_k, for every t."""
    out: list[float] = []
    for reward in reversed(rewards):
        out.append(reward + discount * (out[-1] if out else 0.0))
    return out[::-1]


def _keys(calls: Sequence[Call]) -> list[str]:
    """A digest of each call's state and action: the tokens of its line of calls up to and including it."""
    lines: dict[str | None, bytes] = {None: b""}
    keys = []
    for call in calls:
        said = np.asarray([*call.prompt_ids, -1, *call.completion_ids, -1], np.int64).tobytes()
        lines[call.call_id] = hashlib.sha256(lines[call.parent_id] + said).digest()
        keys.append(lines[call.call_id].hex())
    return keys

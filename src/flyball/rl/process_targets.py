"""What a step is worth, from whole attempts: targets of process reward models.

AgentPRM (arXiv 2502.10325), eq. 1: Q(s, a) is the mean, over all attempts that went through state s with action a, of
the discounted return from there, sum_k g^(k - t) r_k. With one reward at the end it is the mean of g^(T - 1 - t) R. No
attempt is restarted in the middle, so the targets cost nothing but the attempts. The released code discounts from the
start of the attempt instead; this is the paper's form.

A state is all that was said and shown before the action, by token ids. Where states hardly repeat, a target is the
return of a single attempt, and a critic is the better choice (`visits` says so).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flyball.errors import TrainError
from flyball.rl.transitions import transitions_of
from flyball.types import GradedAttempt, Missing


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
    steps = [s for one in graded if not isinstance(one.reward, Missing) for s in transitions_of(one, discount)]
    keys = [step.key for step in steps]
    returns: dict[str, list[float]] = {}
    for step, key in zip(steps, keys, strict=True):
        returns.setdefault(key, []).append(step.returned)
    targets = [
        StepTarget(step.attempt_id, step.call, float(np.mean(sorted(returns[key]))), len(returns[key]))
        for step, key in zip(steps, keys, strict=True)
    ]
    wrong = [t for t in targets if not 0 <= t.value <= 1]
    if wrong:
        raise TrainError(
            f"attempt {wrong[0].attempt_id!r}: the return of step {wrong[0].call} is {wrong[0].value:.3g}; a process "
            "reward model learns values from 0 to 1, so give rewards in that range (success, or a score)"
        )
    return targets

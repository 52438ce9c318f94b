"""A trajectory as transitions: for every model call what it had seen, what it said, and what that earned.

    state    all tokens of the call's line before it sampled        action   the tokens it sampled
    reward   what lies on the call; the outcome lies on the last    return   sum_k g^(k - t) r_k from there

This is the form in which single steps are compared, valued or handed to another learner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError
from flyball.rl.samples import episode_of
from flyball.types import GradedAttempt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Transition:
    """One model call, `call` its position in the trajectory; `last` where the attempt ends with it."""

    attempt_id: str
    call: int
    state: Ints
    action: Ints
    reward: float
    returned: float
    last: bool

    @property
    def key(self) -> str:
        """Digest of state and action: equal where two attempts took the very same step."""
        return hashlib.sha256(self.state.tobytes() + b"|" + self.action.tobytes()).hexdigest()


def transitions_of(graded: GradedAttempt, discount: float = 1.0) -> list[Transition]:
    """The transitions of an attempt that has a reward, in the order of its calls.

    Raises TrainError for a reward that is missing or not finite, and for a discount outside (0, 1].
    """
    if not 0 < discount <= 1:
        raise TrainError(f"discount is {discount}; it is above 0 and at most 1")
    episode, calls = episode_of(graded), graded.attempt.trajectory.calls
    rewards = episode.turn_rewards.copy()
    rewards[-1:] += episode.outcome
    returned = returns_to_go(rewards.tolist(), discount)
    lines: dict[str | None, tuple[int, ...]] = {None: ()}
    out = []
    for k, call in enumerate(calls):
        state = (*lines[call.parent_id], *call.prompt_ids)
        lines[call.call_id] = (*state, *call.completion_ids)
        arrays = np.asarray(state, np.int64), np.asarray(call.completion_ids, np.int64)
        last = k == len(calls) - 1
        out.append(Transition(graded.attempt.attempt_id, k, *arrays, float(rewards[k]), returned[k], last))
    return out


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """sum over k >= t of g^(k - t) r_k, for every t."""
    out: list[float] = []
    for reward in reversed(rewards):
        out.append(reward + discount * (out[-1] if out else 0.0))
    return out[::-1]

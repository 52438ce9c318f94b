"""Which preset fits which data: rules over what attempts look like, the first that holds.

`flyball doctor` measures the facts on attempts of the policy; docs/algorithms.md prints the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.rl.algorithms import algorithm
from flyball.rl.samples import teaches, was_cut
from flyball.types import GradedAttempt

DEFAULT = algorithm("rloo")


@dataclass(frozen=True)
class Facts:
    """What a batch of groups is like. Shares are 0 to 1.

    `turn_rewards`: some attempt earned something on a call. `calls_mean`: model calls per attempt. `alike`: groups that
    teach nothing. `cut`: attempts that ran out of tokens. `returning`: model calls made in a state (what the call was
    shown) that another call of the group was made in, the first calls left out.
    """

    group_size: int
    turn_rewards: bool
    calls_mean: float
    alike: float
    cut: float
    returning: float


def facts_of(groups: Sequence[Sequence[GradedAttempt]]) -> Facts:
    """Measure groups of attempts. Raises ValueError without an attempt."""
    attempts = [one for group in groups for one in group]
    if not attempts:
        raise ValueError("no attempts to choose a preset by")
    later = [states for group in groups for states in _later_states(group)]
    return Facts(
        group_size=max(map(len, groups)),
        turn_rewards=any(event.call_id is not None for one in attempts for event in one.events),
        calls_mean=float(np.mean([len(one.attempt.trajectory.calls) for one in attempts])),
        alike=float(np.mean([not teaches(group, DEFAULT) for group in groups])),
        cut=float(np.mean([was_cut(one) for one in attempts])),
        returning=float(np.mean(later)) if later else 0.0,
    )


@dataclass(frozen=True)
class Rule:
    """`settings` are those of `training.rl`; `why` ends the sentence "`preset` ..., because"."""

    settings: str
    when: str
    why: str
    holds: Callable[[Facts], bool]


RULES = (
    Rule(
        "preset: reinforce_pp",
        "fewer than 4 attempts a task",
        "a group of so few is a poor baseline and the batch is a better one",
        lambda f: f.group_size < 4,
    ),
    Rule(
        "preset: turn_rloo",
        "rewards on turns, and 2 model calls or more per attempt",
        "credit can tell the calls of an attempt apart",
        lambda f: f.turn_rewards and f.calls_mean >= 2,
    ),
    Rule(
        "preset: gigpo",
        "a third or more of the later model calls are made in a state that others of the group were in",
        "calls made in one state can be compared with each other",
        lambda f: f.returning >= 1 / 3,
    ),
    Rule(
        "preset: dapo",
        "a tenth or more of the attempts run out of tokens",
        "long answers need a price before the limit cuts them, and groups that differ",
        lambda f: f.cut >= 0.1,
    ),
    Rule(
        "preset: rloo, max_refills: 3",
        "in half of the groups or more all attempts earn the same",
        "half of every batch would teach nothing",
        lambda f: f.alike >= 0.5,
    ),
    Rule("preset: rloo", "anything else", "nothing speaks against the default", lambda f: True),
)
"""In the order in which they are asked."""


def choose(facts: Facts) -> Rule:
    """The first rule that holds; the last one always does."""
    return next(rule for rule in RULES if rule.holds(facts))


def _later_states(group: Sequence[GradedAttempt]) -> list[bool]:
    """Of every call but the first of an attempt: whether another call of the group was shown the same."""
    shown: list[tuple[Hashable, bool]] = [
        (call.prompt_ids, i == 0) for one in group for i, call in enumerate(one.attempt.trajectory.calls)
    ]
    met: dict[Hashable, int] = {}
    for state, _first in shown:
        met[state] = met.get(state, 0) + 1
    return [met[state] > 1 for state, first in shown if not first]

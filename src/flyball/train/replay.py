"""Groups that were learned from already, learned from again: experience replay with a bounded reuse.

With the replay ratio r a batch of n new groups is joined by up to floor(n r) groups of the last `num_steps` batches, so
every attempt serves 1 + r updates on average (the replay ratio of arXiv 2007.06700, counted in groups). No group is
replayed more than ceil(r) times, and only groups whose rewards differ are: the others have no gradient to give again.

A replayed token keeps the logprob and the version it was sampled with. So its age counts in `staleness`, and the
correction of the sampler's logprobs (`rl/correction.py`) weighs it by how far the policy has moved since.

What is drawn follows from the seed, the step, and how often each group was drawn before. That count is part of the
checkpoint and the batches are in the store, so a resumed run draws what an unbroken one would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.rng import derive
from flyball.train.rollouts import Groups
from flyball.types import GradedAttempt, Missing

Uses = dict[str, int]
"""How often each group was replayed, by `STEP.PLACE`: the step that learned from it first, its place in that batch."""


@dataclass(frozen=True)
class ReplayPlan:
    """`ratio` replayed groups for each new one (0 = none), of the last `num_steps` batches."""

    ratio: float
    num_steps: int
    seed: int

    @property
    def max_uses(self) -> int:
        """How often a group is replayed at most."""
        return math.ceil(self.ratio)


class ReplayBuffer:
    """The batches of the last steps. `past(step)` reads one that an earlier process learned from."""

    def __init__(self, plan: ReplayPlan, past: Callable[[int], Groups]) -> None:
        self._plan, self._past = plan, past
        self._batches: dict[int, Groups] = {}

    def draw(self, step: int, new: Groups, uses: Uses) -> tuple[Groups, list[int]]:
        """Keep the batch of `step`; return the groups to replay beside it and the age of each in steps.

        `uses` is brought up to date; what has left the window is dropped from it.
        """
        plan = self._plan
        first = max(0, step - plan.num_steps)
        known = self._batches
        self._batches = {s: known[s] if s in known else self._past(s) for s in range(first, step)} | {step: new}
        for name in [name for name in uses if int(name.partition(".")[0]) < first]:
            del uses[name]
        free = [
            (s, place)
            for s in range(first, step)
            for place, group in enumerate(self._batches[s])
            if uses.get(f"{s}.{place}", 0) < plan.max_uses and rewards_differ(group)
        ]
        order = np.random.default_rng(derive(plan.seed, "replay", step)).permutation(len(free))
        drawn = sorted(free[i] for i in order[: math.floor(len(new) * plan.ratio)])
        for s, place in drawn:
            uses[f"{s}.{place}"] = uses.get(f"{s}.{place}", 0) + 1
        return [self._batches[s][place] for s, place in drawn], [step - s for s, _place in drawn]


def rewards_differ(group: Sequence[GradedAttempt]) -> bool:
    """Whether the attempts of a group that have a reward did not all earn the same."""
    return len({member.reward for member in group if not isinstance(member.reward, Missing)}) > 1


def replay_metrics(num_new: int, ages: Sequence[int]) -> dict[str, float]:
    """Share of the groups of an update that were learned from before, and how many steps ago that was."""
    n = num_new + len(ages)
    metrics = {"replayed_share": len(ages) / n, "replayed_share/n": float(n)}
    return metrics | ({"replay_age": sum(ages) / len(ages), "replay_age/n": float(len(ages))} if ages else {})

"""From graded attempts to training samples.

A group's attempts are compared with each other; each attempt's advantage goes to every token the policy sampled in it.
Attempts whose reward is Missing are not compared and not trained (they are counted); a zero-variance group trains
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flyball.rl.advantage import has_signal
from flyball.rl.aggregate import loss_weights
from flyball.rl.algorithms import Algorithm
from flyball.rl.support import branch_support
from flyball.types import Call, GradedAttempt, Missing, TrainingSample


@dataclass(frozen=True)
class GroupSignal:
    """What a batch of groups had to teach."""

    samples: tuple[TrainingSample, ...]
    num_groups: int
    num_zero_variance: int
    num_missing: int


def samples_from_groups(
    groups: Sequence[Sequence[GradedAttempt]], algorithm: Algorithm, horizon: int | None = None
) -> GroupSignal:
    """Training samples of an optimizer-step batch, weights already aggregated over all of it."""
    samples: list[TrainingSample] = []
    zero_variance = missing = 0
    for group in groups:
        graded = [(g, g.reward) for g in group if not isinstance(g.reward, Missing)]
        missing += len(group) - len(graded)
        rewards = np.array([r for _g, r in graded], np.float64)
        advantages = algorithm.advantages(rewards)
        if not has_signal(advantages):
            zero_variance += 1
            continue
        for (member, _reward), advantage in zip(graded, advantages, strict=True):
            samples += attempt_samples(member, float(advantage))
    return GroupSignal(tuple(weighted(samples, algorithm.loss_agg_mode, horizon)), len(groups), zero_variance, missing)


def attempt_samples(graded: GradedAttempt, advantage: float) -> list[TrainingSample]:
    """One sample per branch that has a token to train, the same advantage on every sampled token."""
    attempt = graded.attempt
    out = []
    for i, branch in enumerate(attempt.trajectory.branches()):
        if branch.loss_mask.any():
            t = len(branch.token_ids)
            out.append(
                TrainingSample(
                    branch.token_ids,
                    branch.loss_mask,
                    branch.sampling_logprobs,
                    np.full(t, advantage, np.float32) * branch.loss_mask,
                    np.zeros(t, np.float32),
                    attempt.attempt_id,
                    i,
                    branch.policy_versions,
                    support=branch_support(branch.calls),
                    temperatures=_temperatures(branch.calls),
                )
            )
    return out


def _temperatures(calls: Sequence[Call]) -> tuple[float, ...]:
    sampled = (call.sampling.get("temperature") for call in calls if call.completion_ids)
    return tuple(sorted({t for t in sampled if t is not None}))


def weighted(samples: Sequence[TrainingSample], mode: str, horizon: int | None = None) -> list[TrainingSample]:
    """The samples with the aggregation mode turned into loss weights over all of them."""
    weights = loss_weights([s.loss_mask for s in samples], mode, horizon)
    return [replace(s, loss_weights=w) for s, w in zip(samples, weights, strict=True)]

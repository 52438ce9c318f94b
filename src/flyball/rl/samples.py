"""From graded attempts to training samples.

A group's attempts are compared with each other; the advantage of a model call goes to every token that it sampled.
Attempts whose reward is Missing are not compared and not trained (they are counted); a group whose advantages are all
zero trains nothing. What a filter takes out of the loss was still compared: groups stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError
from flyball.rl.advantage import has_signal
from flyball.rl.aggregate import loss_weights, sequences_of
from flyball.rl.algorithms import Algorithm
from flyball.rl.conflict import conflict_weights
from flyball.rl.credit import Episode
from flyball.rl.shaping import CACHE_SHARE, overlong_punishment, token_budget
from flyball.rl.support import branch_support
from flyball.rl.token_credit import kl_rewards, returns_to_go, whiten
from flyball.types import Call, GradedAttempt, Missing, StopReason, TrainingSample

Floats = npt.NDArray[np.float64]

GREEDY = -1
"""The number in its group of a greedy attempt."""
IMPOSSIBLE = -1000.0
"""A logprob below this was never sampled: engines write such numbers where they know none."""


@dataclass(frozen=True)
class GroupSignal:
    """What a batch of groups had to teach."""

    samples: tuple[TrainingSample, ...]
    num_groups: int
    num_zero_variance: int
    num_missing: int


def samples_from_groups(
    groups: Sequence[Sequence[GradedAttempt]], algorithm: Algorithm, horizon: int | None = None, version: int = 0
) -> GroupSignal:
    """Training samples of an optimizer-step batch, weights already aggregated over all of it.

    `version` is the learner's, which `max_age` reads.
    Raises TrainError for a reward or a logprob that is not a finite number, naming the attempt.
    """
    samples: list[TrainingSample] = []
    scales: list[Floats] = []
    zero_variance = missing = 0
    for group in groups:
        graded = compared(group, algorithm)
        missing += len(group) - len(graded)
        if algorithm.network == "critic":
            made_of = [rewarded_samples(g, punish_overlong=algorithm.overlong == "punish") for g in graded]
            kept = [m for g, m in zip(graded, made_of, strict=True) if not left_out(g, algorithm, version)]
            samples += [s for one in kept for s in one]
            continue
        credits = group_credit(graded, algorithm)
        if algorithm.group_baseline and not has_signal(np.concatenate([np.zeros(0), *credits])):
            zero_variance += 1
            continue
        made = [attempt_samples(member, credit) for member, credit in zip(graded, credits, strict=True)]
        weights = _conflict_scales(made, credits, algorithm.conflict_weight)
        for member, its_samples, its_weights in zip(graded, made, weights, strict=True):
            if not left_out(member, algorithm, version):
                samples += its_samples
                scales += its_weights
    aggregated = weighted(samples, algorithm.loss_agg_mode, horizon)
    if scales:
        aggregated = [
            replace(s, loss_weights=(s.loss_weights * f).astype(np.float32))
            for s, f in zip(aggregated, scales, strict=True)
        ]
    return GroupSignal(tuple(aggregated), len(groups), zero_variance, missing)


def group_credit(graded: Sequence[GradedAttempt], algorithm: Algorithm) -> list[Floats]:
    """One advantage per model call of each attempt of a group, all of which have a reward."""
    assert algorithm.credit is not None, f"a critic gives the credit of preset {algorithm.name!r}"
    return algorithm.credit([episode_of(g, punish_overlong=algorithm.overlong == "punish") for g in graded])


def compared(group: Sequence[GradedAttempt], algorithm: Algorithm) -> list[GradedAttempt]:
    """The attempts of a group that have a reward; with a greedy baseline that attempt last, and none without it."""
    graded = [g for g in group if not isinstance(g.reward, Missing)]
    if not algorithm.greedy_baseline:
        return graded
    greedy = [g for g in graded if is_greedy(g)]
    return [g for g in graded if not is_greedy(g)] + greedy if greedy else []


def is_greedy(graded: GradedAttempt) -> bool:
    """Whether an attempt took the likeliest token everywhere: a baseline that learns nothing itself."""
    return graded.attempt.group_index == GREEDY


def teaches(group: Sequence[GradedAttempt], algorithm: Algorithm) -> bool:
    """Whether a group has an advantage other than 0; one with a reward that is no number is left to the update."""
    graded = compared(group, algorithm)
    if any(not math.isfinite(g.reward) for g in graded if not isinstance(g.reward, Missing)):
        return True
    return has_signal(np.concatenate([np.zeros(0), *group_credit(graded, algorithm)]))


def episode_of(graded: GradedAttempt, *, punish_overlong: bool = False) -> Episode:
    """The attempt as credit sees it: what its events place on calls, and the rest of its reward at the end."""
    attempt = graded.attempt
    calls = attempt.trajectory.calls
    reward = graded.reward
    if isinstance(reward, Missing) or not math.isfinite(reward):
        raise TrainError(f"attempt {attempt.attempt_id!r} has the reward {reward}; only finite numbers can be compared")
    position = {call.call_id: k for k, call in enumerate(calls)}
    turns = np.zeros(len(calls))
    for event in graded.events:
        if event.call_id is None:
            continue
        if event.call_id not in position:
            raise TrainError(
                f"attempt {attempt.attempt_id!r}: reward {event.component!r} is placed on call {event.call_id!r}, "
                "which the attempt did not make; use a call_id of attempt.trajectory.calls"
            )
        turns[position[event.call_id]] += event.value
    outcome = reward - float(turns.sum())
    if punish_overlong:
        longest = token_budget(attempt.task.limits)
        sampled = sum(len(call.completion_ids) for call in calls)
        outcome += overlong_punishment(sampled, longest, max(round(CACHE_SHARE * longest), 1))
    return Episode(turns, outcome, tuple(call.prompt_ids for call in calls))


def left_out(graded: GradedAttempt, algorithm: Algorithm, version: int) -> bool:
    """Whether an attempt is compared but not trained: it ran out of tokens, is too old, or is the greedy baseline."""
    cut = algorithm.overlong == "filter" and was_cut(graded)
    return is_greedy(graded) or cut or is_stale(graded, algorithm, version)


def is_stale(graded: GradedAttempt, algorithm: Algorithm, version: int) -> bool:
    """Whether a token of an attempt is more than `max_age` versions older than the learner."""
    sampled_by = [v for call in graded.attempt.trajectory.calls for v in call.policy_versions]
    return algorithm.max_age is not None and bool(sampled_by) and version - min(sampled_by) > algorithm.max_age


def was_cut(graded: GradedAttempt) -> bool:
    """Whether an attempt ended because there was no room for more tokens."""
    calls = graded.attempt.trajectory.calls
    return graded.attempt.stop is StopReason.MAX_TOKENS or bool(calls and calls[-1].finish_reason == "length")


def attempt_samples(graded: GradedAttempt, advantages: Floats | None = None) -> list[TrainingSample]:
    """One sample per branch that has a token to train; `advantages` [K] of its calls, None = 0 (imitation, which
    reads no logprobs). What an adapter drew has logprobs of its own and is given, not trained, unless it is imitated.
    """
    attempt = graded.attempt
    calls = attempt.trajectory.calls
    by_call = np.zeros(len(calls)) if advantages is None else advantages
    trains = np.array([advantages is None or "adapter" not in call.sampling for call in calls], np.bool_)
    out = []
    for i, branch in enumerate(attempt.trajectory.branches()):
        mask = branch.loss_mask & trains[branch.call_index]
        if mask.any():
            if advantages is not None:
                _refuse_chosen(branch.calls, attempt.attempt_id)
                _refuse_impossible(branch.sampling_logprobs[mask], attempt.attempt_id)
            mine = np.zeros(len(branch.token_ids), np.float32)
            mine[mask] = by_call[branch.call_index[mask]]
            out.append(
                TrainingSample(
                    branch.token_ids,
                    mask,
                    branch.sampling_logprobs,
                    mine,
                    np.zeros(len(branch.token_ids), np.float32),
                    attempt.attempt_id,
                    i,
                    branch.policy_versions,
                    support=branch_support(branch.calls),
                    temperatures=_temperatures(branch.calls),
                )
            )
    return out


def rewarded_samples(graded: GradedAttempt, *, punish_overlong: bool = False) -> list[TrainingSample]:
    """Samples with token rewards in the place of advantages: what was earned by each call, on its last token.

    What is earned outside a branch after a call on it (by a sub-agent, or at the end of the attempt) counts for the
    call too, so on every branch the rewards to come sum up to `Episode.returns_to_go`; with one branch they are the
    rewards of its calls, and that of the end on the last token (MT-PPO, arXiv 2505.11821 v2).
    """
    to_go = episode_of(graded, punish_overlong=punish_overlong).returns_to_go()
    by_call = {sample.branch: sample for sample in attempt_samples(graded, np.zeros(len(to_go)))}
    out = []
    for i, branch in enumerate(graded.attempt.trajectory.branches()):
        if i not in by_call:
            continue
        trained = np.flatnonzero(by_call[i].loss_mask)
        calls = branch.call_index[trained]
        last = np.append(calls[1:] != calls[:-1], True)
        returns = np.append(to_go[calls[last]], 0.0)
        rewards = np.zeros(len(branch.token_ids), np.float32)
        rewards[trained[last]] = returns[:-1] - returns[1:]
        out.append(replace(by_call[i], advantages=rewards))
    return out


def _refuse_impossible(logprobs: npt.NDArray[np.float32], attempt_id: str) -> None:
    wrong = logprobs[~((logprobs <= 1e-3) & (logprobs > IMPOSSIBLE))]
    if len(wrong):
        raise TrainError(
            f"attempt {attempt_id!r}: {len(wrong)} of {len(logprobs)} sampled tokens have no usable logprob, the first "
            f"is {wrong[0]}; a sampled token has one from {IMPOSSIBLE:g} to 0, so the engine did not report it"
        )


def _conflict_scales(
    made: Sequence[Sequence[TrainingSample]], credits: Sequence[Floats], positive: float | None
) -> list[list[Floats]]:
    """Factors [T] of the loss weights of every sample: those of GTPO, or 1."""
    if positive is None:
        return [[np.ones(len(s.token_ids)) for s in samples] for samples in made]
    said = [np.concatenate([np.zeros(0, np.int64), *(s.token_ids[s.loss_mask] for s in samples)]) for samples in made]
    advantages = [float(c[0]) if len(c) else 0.0 for c in credits]
    out = []
    for samples, factors in zip(made, conflict_weights(said, advantages, positive), strict=True):
        ends = np.cumsum([int(s.loss_mask.sum()) for s in samples])
        scales = []
        for sample, own in zip(samples, np.split(factors, ends[:-1]), strict=True):
            scale = np.ones(len(sample.token_ids))
            scale[sample.loss_mask] = own
            scales.append(scale)
        out.append(scales)
    return out


def _refuse_chosen(calls: Sequence[Call], attempt_id: str) -> None:
    """Raise TrainError for an answer that was picked from several: it was not drawn as its logprobs say."""
    if chosen := [call.sampling["best_of"] for call in calls if "best_of" in call.sampling]:
        raise TrainError(
            f"attempt {attempt_id!r} was answered by the best of {chosen[0]}, which is no draw of the policy; learn "
            "from attempts without best_of, or imitate this one"
        )


def _temperatures(calls: Sequence[Call]) -> tuple[float, ...]:
    sampled = (call.sampling.get("temperature") for call in calls if call.completion_ids)
    return tuple(sorted({t for t in sampled if t is not None}))


def weighted(samples: Sequence[TrainingSample], mode: str, horizon: int | None = None) -> list[TrainingSample]:
    """The samples with the aggregation mode turned into loss weights over all of them."""
    weights = loss_weights([s.loss_mask for s in samples], mode, horizon, sequences_of(samples))
    return [replace(s, loss_weights=w) for s, w in zip(samples, weights, strict=True)]


# --- advantages that need the whole batch ----------------------------------------------------------------------------


def finished_advantages(
    samples: Sequence[TrainingSample], algorithm: Algorithm, kl_coef: float
) -> list[TrainingSample]:
    """Add what only the whole batch can say: the KL as a part of the reward, then whitening over all tokens.

    A KL in the reward counts from its token to the end of the branch, -beta k1 without a baseline. The samples carry
    `old_logprobs` and `ref_logprobs` where the preset puts a KL in the reward.
    """
    advantages = [s.advantages.astype(np.float64) for s in samples]
    masks = [s.loss_mask for s in samples]
    if kl_coef and algorithm.kl_in_reward:
        advantages = [
            a + kl_to_go(s, kl_coef, algorithm.kl.partition("-")[0]) for a, s in zip(advantages, samples, strict=True)
        ]
    if algorithm.whitened:
        advantages = whiten(advantages, masks)
    return [replace(s, advantages=a.astype(np.float32)) for s, a in zip(samples, advantages, strict=True)]


def kl_token_rewards(sample: TrainingSample, algorithm: Algorithm, kl_coef: float) -> Floats:
    """-beta times the KL of each trained token [T], where the preset puts it in the reward; else 0."""
    if not kl_coef or not algorithm.kl_in_reward:
        return np.zeros(len(sample.token_ids))
    return _kl_rewards(sample, kl_coef, algorithm.kl.partition("-")[0])


def kl_to_go(sample: TrainingSample, kl_coef: float, estimator: str) -> Floats:
    """-beta times the estimator's sum over this and the later trained tokens of the branch, [T]."""
    return returns_to_go(_kl_rewards(sample, kl_coef, estimator), sample.loss_mask)


def _kl_rewards(sample: TrainingSample, kl_coef: float, estimator: str) -> Floats:
    old, ref = sample.old_logprobs, sample.ref_logprobs
    if old is None or ref is None:
        raise ValueError("a KL in the reward needs old_logprobs and ref_logprobs; compute them before the update")
    return kl_rewards(old.astype(np.float64), ref.astype(np.float64), sample.loss_mask, kl_coef, 0.0, estimator)

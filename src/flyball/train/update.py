"""One update of RL: groups of graded attempts -> samples -> what they need -> gradient -> new weights.

It knows no algorithm: a preset's advantage and aggregation make the samples, its numbers go to the loss. KL to the
frozen reference is measured at every step on `KL_SAMPLES` attempts, and on all of them when it is part of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flyball.metrics import measured
from flyball.rl.correction import acceptance_by_length
from flyball.rl.guards import EXPECTED_KL
from flyball.rl.samples import finished_advantages, samples_from_groups
from flyball.stats.intervals import ratio_interval
from flyball.train.attempt_metrics import mismatch, staleness
from flyball.train.credit_network import CreditNetwork
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.prepare import prepared, with_policy_now
from flyball.train.progress import Progress
from flyball.train.rl_plan import RLPlan
from flyball.types import Estimate, GradedAttempt, TrainingSample

KL_SAMPLES = 16


def update(
    learner: LocalLearner,
    reference: LocalLearner,
    groups: Sequence[Sequence[GradedAttempt]],
    plan: RLPlan,
    progress: Progress,
    network: CreditNetwork | None = None,
) -> dict[str, float]:
    """The updates on one batch of groups; a batch without signal leaves the weights as they are.

    With several updates every one takes its share of the groups, whole, and is an optimizer-step batch of its own; the
    ratio of the clip is to the policy before the first. `network` is what the preset trains beside the policy.
    """
    signals = [
        samples_from_groups(groups[k :: plan.updates_per_batch], plan.algorithm, plan.horizon, learner.version)
        for k in range(plan.updates_per_batch)
    ]
    metrics = {
        "zero_variance_share": sum(s.num_zero_variance for s in signals) / max(len(groups), 1),
        "missing_share": sum(s.num_missing for s in signals) / max(sum(map(len, groups)), 1),
    }
    batches = [list(signal.samples) for signal in signals if signal.samples]
    if not batches:
        return metrics
    everything = [sample for batch in batches for sample in batch]
    metrics |= measured("kl", kl_to_reference(learner, reference, everything, progress.step))
    metrics |= staleness(everything, learner.version, plan.max_off_policy_steps * plan.updates_per_batch)
    if plan.max_off_policy_steps or plan.replay:
        some = _drawn(everything, progress.step)
        metrics |= mismatch(some, learner.forward(some), learner.version)
    kl_coef = plan.kl_coef(progress)
    metrics["kl_expected"] = plan.algorithm.kl_schedule.target or EXPECTED_KL
    spec = LossSpec("policy", plan.algorithm.loss_params(0.0 if plan.algorithm.kl_in_reward else kl_coef))
    done: list[dict[str, float]] = []

    def credit(samples: list[TrainingSample]) -> list[TrainingSample]:
        if network is None:
            return finished_advantages(samples, plan.algorithm, kl_coef)
        return network.credited(samples, groups, plan.algorithm, kl_coef)

    for batch in prepared(batches, learner, reference, plan.algorithm, kl_coef, plan.horizon, credit):
        if network is not None:
            metrics |= network.learn(batch, plan.lr_scale(progress))
        batch, found = with_policy_now(batch, learner, plan.algorithm)
        both = halves(batch, groups) if plan.compare_halves else (batch, [])
        one = forward_backward_in_halves(learner, both, spec) | found
        done.append(one | learner.optim_step(plan.lr_scale(progress)))
    total, means = merged(done)
    by_class = {key: means.pop(key) for key in list(means) if "@" in key}
    named = {NAMES[key]: value for key, value in means.items() if key in NAMES}
    return metrics | named | acceptance_by_length(by_class) | {"trained_tokens": total, "kl_coef": kl_coef}


NAMES = {
    "loss": "loss",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "ratio": "ratio_mean",
    "clip_fraction": "clip_fraction",
    "tis_capped": "tis_capped_share",
    "logprob_gap": "logprob_gap_mean",
    "kl_loss": "kl_loss",
    "gradient_cosine": "gradient_cosine",
}
"""What the learner reports for an update, and its name in `metrics.py`."""


def merged(done: Sequence[Mapping[str, float]]) -> tuple[float, dict[str, float]]:
    """All trained tokens, and what the learner reported averaged by them. What one does not report counts 0 there."""
    total = sum(one["trained_tokens"] for one in done)
    names = dict.fromkeys(name for one in done for name in one)
    return total, {n: sum(one.get(n, 0.0) * one["trained_tokens"] for one in done) / total for n in names}


# --- do the halves of a batch agree? ---------------------------------------------------------------------------------


def halves(
    batch: Sequence[TrainingSample], groups: Sequence[Sequence[GradedAttempt]]
) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """The samples of one update in two, groups whole and in the order of their families."""
    rank = {g.attempt.attempt_id: (g.attempt.task.family, i) for i, group in enumerate(groups) for g in group}
    ranks = sorted({rank[s.attempt_id] for s in batch})
    first = set(ranks[: (len(ranks) + 1) // 2])
    return [s for s in batch if rank[s.attempt_id] in first], [s for s in batch if rank[s.attempt_id] not in first]


def forward_backward_in_halves(
    learner: LocalLearner, both: tuple[Sequence[TrainingSample], Sequence[TrainingSample]], spec: LossSpec
) -> dict[str, float]:
    """The gradient of both halves together, as in one call, with the cosine of the angle between the two.

    Without a second half there is no cosine.
    """
    if not both[1]:
        return learner.forward_backward(both[0], spec)
    one = learner.forward_backward(both[0], spec)
    first = learner.gradient_sample()
    two = learner.forward_backward(both[1], spec)
    second = learner.gradient_sample() - first
    cosine = float(first @ second / (first.norm() * second.norm()).clamp_min(TINY))
    total, found = merged([one, two])
    return found | {"loss": one["loss"] + two["loss"], "gradient_cosine": cosine, "trained_tokens": total}


TINY = 1e-30
"""A gradient of norm 0 has cosine 0 with every other."""


# --- how far it is from the reference --------------------------------------------------------------------------------


def kl_to_reference(
    learner: LocalLearner, reference: LocalLearner, samples: Sequence[TrainingSample], step: int
) -> Estimate:
    """k3 estimate of KL(policy || reference) in nats per sampled token, on at most `KL_SAMPLES` samples drawn anew."""
    picked = _drawn(samples, step)
    sums = []
    for sample, now, ref in zip(picked, learner.forward(picked), reference.forward(picked), strict=True):
        log_r = (ref - now)[sample.loss_mask].astype(np.float64)
        sums.append(float((np.exp(log_r) - 1 - log_r).sum()))
    if not np.isfinite(sums).all():  # the update that follows refuses such weights; the curve shows where they left
        return Estimate(math.inf, -math.inf, math.inf, len(picked), unit="nats/token")
    return ratio_interval(sums, [float(sample.loss_mask.sum()) for sample in picked], unit="nats/token")


def _drawn(samples: Sequence[TrainingSample], step: int) -> list[TrainingSample]:
    return [samples[i] for i in np.random.default_rng(step).permutation(len(samples))[:KL_SAMPLES]]

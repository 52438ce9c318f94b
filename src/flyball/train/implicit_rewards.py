"""PRIME, arXiv 2502.01456: process rewards hidden in a model of outcomes that is trained beside the policy.

    r_t = beta log(pi_phi / pi_ref)      cross-entropy of sigmoid(sum_t r_t) with success

The network pi_phi begins as the policy. A batch is credited by it as it is before the step, then it learns from the
batch (the order of the authors' code). An attempt is all its branches, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flyball.rl.algorithms import Algorithm
from flyball.rl.token_credit import implicit_reward_loss, implicit_reward_slope, implicit_rewards, prime_advantages
from flyball.train.learner import LocalLearner, LossSpec
from flyball.types import GradedAttempt, Missing, TrainingSample

Floats = npt.NDArray[np.float64]


class ImplicitRewards:
    """The `CreditNetwork` of PRIME. Samples carry `ref_logprobs`."""

    def __init__(self, learner: LocalLearner) -> None:
        self.learner = learner
        self._outcomes: dict[str, bool] = {}

    def credited(
        self,
        samples: Sequence[TrainingSample],
        groups: Sequence[Sequence[GradedAttempt]],
        algorithm: Algorithm,
        kl_coef: float,
    ) -> list[TrainingSample]:
        """Advantages of outcomes and process rewards, attempts of a group compared with each other."""
        rewards = self._rewards(samples)
        of_attempt: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            of_attempt.setdefault(sample.attempt_id, []).append(i)
        advantages = [np.zeros(len(s.token_ids)) for s in samples]
        self._outcomes = {}
        for group in groups:
            members = [one for one in group if one.attempt.attempt_id in of_attempt]
            self._outcomes |= {
                one.attempt.attempt_id: one.outcome.success
                for one in members
                if not isinstance(one.outcome.success, Missing)
            }
            branches = [of_attempt[one.attempt.attempt_id] for one in members]
            process = [np.concatenate([rewards[i] for i in rows]) for rows in branches]
            earned = np.array([0.0 if isinstance(m.reward, Missing) else m.reward for m in members])
            credits = prime_advantages(earned, process, [np.ones(len(p), np.bool_) for p in process])
            for rows, credit in zip(branches, credits, strict=True):
                ends = np.cumsum([len(rewards[i]) for i in rows])
                for i, own in zip(rows, np.split(credit, ends[:-1]), strict=True):
                    advantages[i][samples[i].loss_mask] = own
        return [replace(s, advantages=a.astype(np.float32)) for s, a in zip(samples, advantages, strict=True)]

    def learn(self, samples: Sequence[TrainingSample], lr_scale: float) -> dict[str, float]:
        """One step on the cross-entropy of the outcomes. Attempts without an outcome teach it nothing."""
        known = [s for s in samples if s.attempt_id in self._outcomes]
        if not known:
            return {}
        totals: dict[str, float] = dict.fromkeys((s.attempt_id for s in known), 0.0)
        for sample, rewards in zip(known, self._rewards(known), strict=True):
            totals[sample.attempt_id] += float(rewards.sum())
        slopes = {name: implicit_reward_slope(total, self._outcomes[name]) for name, total in totals.items()}
        batch = [
            replace(
                s,
                advantages=np.where(s.loss_mask, -slopes[s.attempt_id], 0.0).astype(np.float32),
                loss_weights=(s.loss_mask / len(totals)).astype(np.float32),
            )
            for s in known
        ]
        self.learner.forward_backward(batch, LossSpec("weighted_likelihood"))
        norm = self.learner.optim_step(lr_scale)["grad_norm"]
        losses = [implicit_reward_loss(np.array([total]), self._outcomes[name]) for name, total in totals.items()]
        right = [(total > 0) == self._outcomes[name] for name, total in totals.items()]
        return {
            "implicit_reward_loss": float(np.mean(losses)),
            "implicit_reward_accuracy": float(np.mean(right)),
            "grad_norm/implicit_rewards": norm,
        }

    def _rewards(self, samples: Sequence[TrainingSample]) -> list[Floats]:
        """r_t of the trained tokens of every sample, by the network as it is now."""
        out = []
        for sample, logprobs in zip(samples, self.learner.forward(samples), strict=True):
            assert sample.ref_logprobs is not None, "`prepared` fills them in for this preset"
            mask = sample.loss_mask
            out.append(
                implicit_rewards(logprobs[mask].astype(np.float64), sample.ref_logprobs[mask].astype(np.float64))
            )
        return out

"""PPO's critic: a value for each sampled token, GAE over them, and the clipped value loss.

PPO, arXiv 1707.06347; GAE, 1506.02438; turns and observation tokens as in MT-PPO, 2505.11821 v2. A batch arrives with
token rewards in the place of advantages (`rl/samples.py`); a KL in the reward is added to them token by token, so the
critic learns to foresee it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from flyball.errors import ConfigError
from flyball.rl.algorithms import Algorithm
from flyball.rl.loss import value_loss
from flyball.rl.samples import kl_token_rewards
from flyball.rl.token_credit import explained_variance, gae, whiten
from flyball.train.learner import Draws, LocalLearner, LossSpec, gather
from flyball.types import GradedAttempt, TrainingSample

Floats = npt.NDArray[np.float64]
VALUE = LossSpec("value", {"clip": 0.5})


@dataclass(frozen=True)
class ValueTarget:
    """What the critic learns of one sample, both [T]: what it said before the step, and what was returned."""

    old_values: npt.NDArray[np.float32]
    returns: npt.NDArray[np.float32]


class CriticLearner(LocalLearner):
    """A learner whose network has a value head (`models/heads.py`). `forward` gives values [T] instead of logprobs.

    `targets` are those of the samples that it is given next, by attempt and branch.
    """

    targets: Mapping[tuple[str, int], ValueTarget] = {}

    def _predict(self, hidden: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Value of the state that each token was drawn in, [n]; it has no entropy."""
        distinct, which = np.unique(draws.before, return_inverse=True)
        with self._precision():
            values = self.model.get_output_embeddings()(hidden[torch.from_numpy(distinct)])
        chosen = values.float()[torch.from_numpy(which), 0]
        return chosen, torch.zeros_like(chosen)

    def _token_loss(
        self,
        spec: LossSpec,
        predicted: torch.Tensor,
        taken: list[TrainingSample],
        row: torch.Tensor,
        position: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if spec.name != VALUE.name:
            raise ConfigError(f"loss {spec.name!r} is not one of a critic; it has {VALUE.name!r}")
        targets = [self.targets[s.attempt_id, s.branch] for s in taken]
        old, returns = (
            gather([getattr(t, name) for t in targets], row, position) for name in ("old_values", "returns")
        )
        return value_loss(predicted, old, returns, **spec.params), {}


class Critic:
    """The `CreditNetwork` of presets with a critic."""

    def __init__(self, learner: CriticLearner) -> None:
        self.learner = learner

    def credited(
        self,
        samples: Sequence[TrainingSample],
        groups: Sequence[Sequence[GradedAttempt]],
        algorithm: Algorithm,
        kl_coef: float,
    ) -> list[TrainingSample]:
        """Advantages by GAE from the token rewards that the samples carry, whitened where the preset says so."""
        values = [v.astype(np.float64) for v in self.learner.forward(samples)]
        rewards = [s.advantages + kl_token_rewards(s, algorithm, kl_coef) for s in samples]
        found = [
            gae(r, v, s.loss_mask, algorithm.discount, algorithm.trace)
            for r, v, s in zip(rewards, values, samples, strict=True)
        ]
        advantages, returns = ([pair[i] for pair in found] for i in (0, 1))
        self.learner.targets = {
            (s.attempt_id, s.branch): ValueTarget(v.astype(np.float32), r.astype(np.float32))
            for s, v, r in zip(samples, values, returns, strict=True)
        }
        if algorithm.whitened:
            advantages = whiten(advantages, [s.loss_mask for s in samples])
        return [replace(s, advantages=a.astype(np.float32)) for s, a in zip(samples, advantages, strict=True)]

    def learn(self, samples: Sequence[TrainingSample], lr_scale: float) -> dict[str, float]:
        """One step on the value loss. Raises TrainError as the learner does."""
        targets = [self.learner.targets[s.attempt_id, s.branch] for s in samples]
        masks = [s.loss_mask for s in samples]
        loss = self.learner.forward_backward(samples, VALUE)["loss"]
        norm = self.learner.optim_step(lr_scale)["grad_norm"]
        explained = explained_variance(
            np.concatenate([t.old_values[m] for t, m in zip(targets, masks, strict=True)]),
            np.concatenate([t.returns[m] for t, m in zip(targets, masks, strict=True)]),
        )
        found = {"value_loss": loss, "grad_norm/critic": norm}
        return found if explained is None else found | {"explained_variance": explained}

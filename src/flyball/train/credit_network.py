"""A network beside the policy that says what each token was worth: `critic.py` or `implicit_rewards.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from flyball.rl.algorithms import Algorithm
from flyball.train.learner import LocalLearner
from flyball.types import GradedAttempt, TrainingSample


class CreditNetwork(Protocol):
    """Gives a batch its advantages, and learns from it. It is saved and resumed with the policy."""

    @property
    def learner(self) -> LocalLearner:
        """The network with its optimizer."""
        ...

    def credited(
        self,
        samples: Sequence[TrainingSample],
        groups: Sequence[Sequence[GradedAttempt]],
        algorithm: Algorithm,
        kl_coef: float,
    ) -> list[TrainingSample]:
        """The samples with their advantages, from the network as it is before the step."""
        ...

    def learn(self, samples: Sequence[TrainingSample], lr_scale: float) -> Mapping[str, float]:
        """Learn from some of the samples that were credited last. Returns metrics by the names of `metrics.py`."""
        ...

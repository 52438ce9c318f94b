"""Age of training data: what a filter by age throws away, shown before anyone believes in it.

Off by default: with attempts whose durations differ, discarding what is over age discards the slow ones, and reward
curves only show the survivors. Kept for reproductions, with the censoring beside it (design, invariant 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyball.types import TrainingSample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Censoring:
    """`admitted` and `trained`: attempts by decile of duration, shortest first. `index`: 1 is healthy.

    The index is the share of the slowest decile in what was trained over its share in what was admitted.
    """

    admitted: tuple[int, ...]
    trained: tuple[int, ...]

    @property
    def index(self) -> float:
        """Share of the slowest decile in trained / in admitted; NaN when nothing was admitted or trained."""
        admitted, trained = sum(self.admitted), sum(self.trained)
        if not admitted or not trained or not self.admitted[-1]:
            return float("nan")
        return (self.trained[-1] / trained) / (self.admitted[-1] / admitted)


def ages(sample: TrainingSample, version: int) -> npt.NDArray[np.int64]:
    """Versions between the learner and what sampled each trained token."""
    assert sample.policy_versions is not None
    return version - sample.policy_versions[sample.loss_mask]


def young_enough(samples: Sequence[TrainingSample], version: int, max_age: int) -> npt.NDArray[np.bool_]:
    """True for attempts whose every trained token is at most `max_age` versions old; its samples stay together."""
    old = {s.attempt_id for s in samples if (ages(s, version) > max_age).any()}
    return np.array([s.attempt_id not in old for s in samples], np.bool_)


def censoring(durations: Floats, kept: npt.NDArray[np.bool_], num_classes: int = 10) -> Censoring:
    """What a filter kept of attempts, by decile of their duration."""
    order = np.argsort(durations, kind="stable")
    classes = np.array_split(order, num_classes)
    return Censoring(tuple(len(c) for c in classes), tuple(int(kept[c].sum()) for c in classes))

"""Loss aggregation: two sequences with token losses [1, 1] and [2, 2, 2, 2], horizon 8, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.errors import ConfigError
from flyball.rl.aggregate import loss_weights

LOSSES = [np.array([9.0, 1, 1, 9]), np.array([9.0, 2, 2, 2, 2])]  # 9 on what is given: it must not count
MASKS = [np.array([False, True, True, False]), np.array([False, True, True, True, True])]
UNTRAINED = np.zeros(3, np.bool_)

HAND_WORKED = [
    ("token-mean", None, 10 / 6),  # all six tokens alike
    ("seq-mean-token-mean", None, (1 + 2) / 2),  # means of the sequences, then their mean
    ("seq-mean-token-sum", None, (2 + 8) / 2),
    ("seq-mean-token-sum-norm", 8, (2 + 8) / 2 / 8),
]


@pytest.mark.parametrize(("mode", "horizon", "expected"), HAND_WORKED)
def test_hand_worked(mode: str, horizon: int | None, expected: float) -> None:
    weights = loss_weights(MASKS, mode, horizon)
    assert sum(float((w * x).sum()) for w, x in zip(weights, LOSSES, strict=True)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("mode", "horizon", "expected"), HAND_WORKED)
def test_a_sequence_that_trains_nothing_changes_nothing(mode: str, horizon: int | None, expected: float) -> None:
    *weights, none = loss_weights([*MASKS, UNTRAINED], mode, horizon)
    assert not none.any()
    assert sum(float((w * x).sum()) for w, x in zip(weights, LOSSES, strict=True)) == pytest.approx(expected, rel=1e-6)


def test_a_batch_that_trains_nothing_has_zero_weights() -> None:
    (weights,) = loss_weights([UNTRAINED], "token-mean")
    assert weights.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("mode", "horizon", "said"),
    [
        ("token-meen", None, "did you mean 'token-mean'"),
        ("seq-mean-token-sum-norm", None, "a horizon goes with"),
        ("token-mean", 8, "a horizon goes with"),
    ],
)
def test_a_mode_that_cannot_be_honoured_is_refused(mode: str, horizon: int | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loss_weights(MASKS, mode, horizon)

"""Weights of another policy's attempts by hand, what they are worth, and when they are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import TrainError
from flyball.rl.other_policy import importance_weights


def test_weights_and_effective_size_by_hand() -> None:
    """Ratios 1, 2 and 3: weights 1/2, 1 and 3/2 of mean 1; effective size 9 / (1/4 + 1 + 9/4) = 18/7."""
    found = importance_weights([0.0, math.log(2), math.log(3)])
    assert found.weights == pytest.approx([0.5, 1.0, 1.5]) and found.effective == pytest.approx(18 / 7)


def test_the_policys_own_attempts_weigh_alike() -> None:
    own = importance_weights([-3.0] * 8)
    assert own.weights == pytest.approx(np.ones(8)) and own.effective == pytest.approx(8)


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=20), st.floats(-500, 500))
def test_a_common_factor_changes_nothing_and_the_size_lies_between_one_and_all(logs: list[float], shift: float) -> None:
    found, moved = importance_weights(logs, 0.0), importance_weights([x + shift for x in logs], 0.0)
    assert moved.weights == pytest.approx(found.weights, rel=1e-6)
    assert 1 - 1e-9 <= found.effective <= len(logs) + 1e-9 and found.weights.mean() == pytest.approx(1.0)


def test_attempts_that_the_policy_would_not_make_are_refused() -> None:
    with pytest.raises(TrainError, match=r"20 attempts of another policy are worth 1\.0 of this one, below 10%"):
        importance_weights([0.0] + [-50.0] * 19)
    assert importance_weights([0.0] + [-50.0] * 19, floor=0.0).effective == pytest.approx(1.0)
    for wrong in ([], [math.nan], [math.inf, 0.0]):
        with pytest.raises(TrainError, match="finite log-ratios"):
            importance_weights(wrong)

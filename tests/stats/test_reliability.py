"""The reliability score by hand, at its edges, and against resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import EvalError
from flyball.stats.binomial import wilson_bounds
from flyball.stats.intervals import t_quantile
from flyball.stats.reliability import reliability_interval


def test_worked_by_hand() -> None:
    """Four sessions: s = 2/4, o = 1/4, e = 1/5, so R = 0.5 * 0.75 * 0.8 = 0.3.

    z_j = 0.6 (y - 0.5)/4 - 0.4 (o - 0.25)/4 - 0.375 (e - 0.2 t)/5, which is
        0.075 + 0.025 + 0.030 =  0.130     (y=1, o=0, e=0, t=2)
        0.075 + 0.025 + 0.015 =  0.115     (y=1, o=0, e=0, t=1)
       -0.075 - 0.075 - 0.045 = -0.195     (y=0, o=1, e=1, t=2)
       -0.075 + 0.025 + 0     = -0.050     (y=0, o=0, e=0, t=0)
    and sums to 0; the variance is 4/3 of the sum of squares, 0.070650 * 4/3 = 0.0942.
    """
    found = reliability_interval([1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [2, 1, 2, 0])
    variance = 4 / 3 * (0.130**2 + 0.115**2 + 0.195**2 + 0.050**2)
    z = 1.959963984540054
    size = min(0.3 * 0.7 / variance * (z / t_quantile(0.95, 3)) ** 2, 4)
    assert (found.value, found.n, found.clusters) == (pytest.approx(0.3), 4, 4)
    assert (found.low, found.high) == pytest.approx(wilson_bounds(0.3, size, z), rel=1e-6)


def test_a_session_without_a_label_counts_in_overrides_and_tools_only() -> None:
    found = reliability_interval([1, 0, 0], [0, 0, 1], [0, 0, 1], [1, 1, 2], labelled=[1, 1, 0])
    assert found.value == pytest.approx(0.5 * (2 / 3) * (3 / 4)) and found.n == 2
    with pytest.raises(EvalError, match="no session has a label"):
        reliability_interval([0], [0], [0], [0], labelled=[0])
    with pytest.raises(EvalError, match="errors <= calls"):
        reliability_interval([1], [0], [2], [1])


def test_the_interval_is_as_wide_as_resampling_says() -> None:
    rng = np.random.default_rng(5)
    n = 2000
    y = (rng.random(n) < 0.7).astype(float)
    o = (rng.random(n) < np.where(y > 0, 0.05, 0.4)).astype(float)
    t = rng.integers(0, 5, n).astype(float)
    e = rng.binomial(t.astype(int), np.where(y > 0, 0.05, 0.3)).astype(float)
    found = reliability_interval(y, o, e, t)

    def score(rows: np.ndarray) -> float:
        return float(y[rows].mean() * (1 - o[rows].mean()) * (1 - e[rows].sum() / t[rows].sum()))

    drawn = np.array([score(rng.integers(0, n, n)) for _ in range(1000)])
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(float(drawn.std()), rel=0.1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_it_is_a_share_within_its_interval(rows: list[tuple[bool, bool, int, int]]) -> None:
    y, o, e, more = (np.array(column, float) for column in zip(*rows, strict=True))
    found = reliability_interval(y, o, e, e + more)
    assert 0.0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1.0
    assert math.isfinite(found.low)

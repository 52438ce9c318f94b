"""Kappa, correlation and calibration against numbers worked by hand, and the coverage of their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.errors import EvalError
from flyball.stats.agreement import cohen_kappa, correlation
from flyball.stats.calibration import brier_score, expected_calibration_error

YES_NO = ["y"] * 20 + ["y"] * 5 + ["n"] * 10 + ["n"] * 15
OTHER = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15


def test_kappa_of_the_textbook_table() -> None:
    found = cohen_kappa(YES_NO, OTHER)  # p_o 0.7, p_e 0.5
    assert found.value == pytest.approx(0.4) and (found.n, found.clusters) == (50, 50)
    # Fleiss, Cohen and Everitt with p = (0.5, 0.5), q = (0.6, 0.4) and cells 0.4, 0.1, 0.2, 0.3
    a = 0.4 * (1 - 1.1 * 0.6) ** 2 + 0.3 * (1 - 0.9 * 0.6) ** 2
    b = 0.6**2 * (0.1 * (0.6 + 0.5) ** 2 + 0.2 * (0.4 + 0.5) ** 2)
    c = (0.4 - 0.5 * 0.6) ** 2
    se = math.sqrt((a + b - c) / 50) / 0.5
    assert (found.high - found.low) / 2 == pytest.approx(2.0096 * se * math.sqrt(50 / 49), rel=1e-3)


def test_kappa_sees_clusters_and_has_no_value_without_variety() -> None:
    once = cohen_kappa(YES_NO, OTHER)
    groups = [i for i in range(50) for _ in range(4)]
    copied = cohen_kappa(
        [x for x in YES_NO for _ in range(4)], [x for x in OTHER for _ in range(4)], clusters=groups
    )  # each unit four times
    assert copied.low == pytest.approx(once.low) and copied.clusters == 50
    perfect = cohen_kappa(["y", "n"] * 10, ["y", "n"] * 10)
    assert perfect.value == 1.0 and 0.5 < perfect.low < 1.0
    with pytest.raises(EvalError, match="one label from both"):
        cohen_kappa(["y"] * 5, ["y"] * 5)


def test_the_point_biserial_of_the_paper() -> None:
    found = correlation([1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1, 1, 0])
    assert found.value == pytest.approx(0.5) and -1 < found.low < 0.5 < found.high < 1
    with pytest.raises(EvalError, match="never varies"):
        correlation([1, 1, 1], [0, 1, 0])


def test_intervals_cover() -> None:
    draws = np.random.default_rng(1)
    hits_r = hits_k = 0
    for _ in range(200):
        x = draws.normal(size=80)
        y = 0.6 * x + 0.8 * draws.normal(size=80)
        r = correlation(x, y)
        hits_r += r.low <= 0.6 <= r.high
        truth = draws.random(120) < 0.5
        rated = np.where(draws.random(120) < 0.8, truth, ~truth)  # kappa 0.6
        k = cohen_kappa(list(truth), list(rated))
        hits_k += k.low <= 0.6 <= k.high
    assert 182 <= hits_r <= 200 and 182 <= hits_k <= 200


CLAIMS, TRUE = [0.9, 0.9, 0.8, 0.8, 0.6, 0.6, 0.3, 0.3], [1, 1, 1, 0, 1, 0, 0, 1]


def test_calibration_of_the_reference_case() -> None:
    found = expected_calibration_error(CLAIMS, TRUE, equal_mass=False)
    assert found.value == pytest.approx(0.175) and found.low <= 0.175 <= found.high
    assert brier_score(CLAIMS, TRUE).value == pytest.approx(0.225)
    assert expected_calibration_error([1, 0] * 20, [1, 0] * 20).value == 0.0
    assert expected_calibration_error([0.9] * 40, [1, 0] * 20).value == pytest.approx(0.4)
    with pytest.raises(EvalError, match="outcomes that are 0 or 1"):
        expected_calibration_error([0.5], [0.5])

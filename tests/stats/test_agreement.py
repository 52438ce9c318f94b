"""Kappa, correlation and calibration against numbers worked by hand, and the coverage of their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.errors import EvalError
from flyball.stats.agreement import cohen_kappa, correlation
from flyball.stats.best_of_n import best_of_n
from flyball.stats.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)

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


def test_the_curve_shows_what_the_error_sums_up() -> None:
    """The sum over bins of n_b / n times |share - claim| is the calibration error."""
    rng = np.random.default_rng(0)
    claims = rng.random(300)
    truth = (rng.random(300) < claims**2).astype(float)
    curve = reliability_curve(claims, truth)
    assert sum(part.came_true.n for part in curve) == 300 and len(curve) == 10
    summed = sum(part.came_true.n * abs(part.came_true.value - part.claimed) for part in curve) / 300
    assert summed == pytest.approx(expected_calibration_error(claims, truth).value)
    assert all(part.came_true.low <= part.came_true.value <= part.came_true.high for part in curve)


def test_a_temperature_undoes_what_logits_were_multiplied_by() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=4000)
    truth = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    assert fit_temperature(logits, truth) == pytest.approx(1.0, abs=0.1)
    assert fit_temperature(5 * logits, truth) == pytest.approx(5 * fit_temperature(logits, truth), rel=1e-3)
    assert fit_temperature([1.0, -1.0], [1, 0]) < 0.02, "nothing bounds it from below but the search"
    with pytest.raises(EvalError, match="0 or 1"):
        fit_temperature([1.0], [0.5])


def test_best_of_n_by_hand() -> None:
    """Scores 1 2 3 4 with success 0 1 0 1: of the six pairs the better one succeeds in (1,2) and three with 4: 4/6."""
    one = {"t": [(1.0, 0.0), (2.0, 1.0), (3.0, 0.0), (4.0, 1.0)]}
    assert [best_of_n(one, n).value for n in (1, 2, 4)] == pytest.approx([0.5, 4 / 6, 1.0])
    alike = {"t": [(0.0, s) for s in (0.0, 1.0, 0.0, 1.0)]}
    assert [best_of_n(alike, n).value for n in (1, 2, 3)] == pytest.approx([0.5] * 3), "a blind scorer picks at random"
    with pytest.raises(EvalError, match="task 't' has 4 attempts"):
        best_of_n(one, 5)


def test_best_of_n_agrees_with_drawing() -> None:
    rng = np.random.default_rng(2)
    tasks = {f"{i}": [(float(s), float(rng.random() < s)) for s in rng.random(6)] for i in range(8)}

    def best_of_a_draw(attempts: list[tuple[float, float]]) -> float:
        return max(attempts[int(k)] for k in rng.choice(6, 3, replace=False))[1]

    draws = [np.mean([best_of_a_draw(attempts) for attempts in tasks.values()]) for _ in range(3000)]
    found = best_of_n(tasks, 3)
    assert found.value == pytest.approx(float(np.mean(draws)), abs=0.01) and found.n == 8

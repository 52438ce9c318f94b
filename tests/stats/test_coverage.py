"""Seeded simulation: the stated design covers at its level, and each wrong reading of the design does not."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.stats.intervals import proportion_interval, rate_interval
from flyball.stats.paired import paired_difference

FAMILIES, CLUSTERS, SIZE, REPEATS = 9, 6, 4, 400
BASE = np.linspace(0.2, 0.8, FAMILIES)  # fixed strata: very different rates and gains
GAIN = np.linspace(0.6, -0.5, FAMILIES)
FAMILY = np.repeat(np.arange(FAMILIES), CLUSTERS * SIZE)
CLUSTER = np.repeat(np.arange(FAMILIES * CLUSTERS), SIZE)


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One suite: cluster effects shared by the tasks of a template x snapshot; returns candidate and baseline."""
    shift = np.repeat(rng.normal(0, 0.22, FAMILIES * CLUSTERS), SIZE)
    base = rng.random(len(FAMILY)) < np.clip(BASE[FAMILY], 0, 1)
    candidate = rng.random(len(FAMILY)) < np.clip(BASE[FAMILY] + GAIN[FAMILY] + shift, 0, 1)
    return candidate.astype(float), base.astype(float)


@pytest.fixture(scope="module")
def suites() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [draw(rng) for _ in range(REPEATS)]


def coverage_and_width(suites, **labels) -> tuple[float, float]:
    truth = float(np.mean([c.mean() - b.mean() for c, b in suites]))
    intervals = [paired_difference(c, b, bounds=(-1, 1), **labels) for c, b in suites]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    return float(covered), float(np.mean([i.high - i.low for i in intervals]))


def test_strata_and_clusters_cover_at_their_level(suites) -> None:
    covered, _ = coverage_and_width(suites, strata=FAMILY, clusters=CLUSTER)
    assert 0.93 <= covered <= 0.975


def test_ignoring_clusters_claims_too_much(suites) -> None:
    covered, _ = coverage_and_width(suites, strata=FAMILY)
    assert covered < 0.92


def test_families_as_clusters_are_much_too_wide(suites) -> None:
    _, right = coverage_and_width(suites, strata=FAMILY, clusters=CLUSTER)
    _, wrong = coverage_and_width(suites, clusters=FAMILY)
    assert wrong / right > 1.3


def test_ignoring_strata_is_wider(suites) -> None:
    _, right = coverage_and_width(suites, strata=FAMILY, clusters=CLUSTER)
    _, wrong = coverage_and_width(suites, clusters=CLUSTER)
    assert wrong / right > 1.03


def test_few_clusters_need_t() -> None:
    """Five clusters: t covers near 95 %, where a normal quantile would cover about 88 %."""
    rng = np.random.default_rng(11)
    cluster = np.repeat(np.arange(5), 8)
    covered = normal = 0
    for _ in range(600):
        values = np.repeat(rng.normal(0, 1, 5), 8) + rng.normal(0, 0.5, 40)
        i = paired_difference(values, np.zeros(40), clusters=cluster)
        half = (i.high - i.low) / 2
        covered += i.low <= 0 <= i.high
        normal += abs(i.value) <= half * 1.959964 / 2.776445
    assert 0.93 <= covered / 600 <= 0.97
    assert normal / 600 < 0.91


def test_shares_in_clusters_are_covered() -> None:
    """A share of 0.75 in 30 clusters of 5 that depend on each other: plain `p +- z se` falls short, this must not."""
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(30), 5)
    covered = plain = 0
    for _ in range(500):
        successes = (rng.random(150) < np.repeat(rng.beta(3, 1, 30), 5)).astype(float)
        share, i = successes.mean(), proportion_interval(successes, clusters=cluster)
        covered += i.low <= 0.75 <= i.high
        plain += abs(share - 0.75) <= 1.96 * np.sqrt(share * (1 - share) / 150)
    assert covered / 500 >= 0.93
    assert plain / 500 < 0.88


def test_rate_of_errors_over_calls_is_covered() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(500):
        calls = rng.integers(0, 9, 80)
        errors = rng.binomial(calls, rng.beta(0.3, 2.7, 80))
        i = rate_interval(errors, calls)
        covered += i.low <= 0.1 <= i.high
    assert covered / 500 >= 0.92


def test_rare_losses_are_covered() -> None:
    """One task in a hundred is lost: the t interval alone misses this far more often than 5 %."""
    rng = np.random.default_rng(13)
    covered = 0
    for _ in range(600):
        lost = (rng.random(200) < 0.01).astype(float)
        i = paired_difference(-lost, np.zeros(200), bounds=(-1, 1))
        covered += i.low <= -0.01 <= i.high
    assert covered / 600 >= 0.94

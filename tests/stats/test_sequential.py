"""Tests that may be looked at after every observation: worked by hand, simulated at their boundary."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.errors import EvalError
from flyball.stats.betting import (
    BOLDEST,
    NUM_BETS,
    first_rejection,
    interval_at_any_time,
    log_change_evidence,
    log_evidence,
)
from flyball.stats.binomial import exact_upper
from flyball.stats.counts import log_excess_evidence, log_split_evidence
from flyball.stats.durations import log_tail_evidence, slowdown_bound

RUNS, LENGTH = 400, 600


def share_rejected(paths, alpha: float) -> float:
    return float(np.mean([first_rejection(path, alpha) is not None for path in paths]))


def not_above(share: float, alpha: float) -> bool:
    """Whether a share over RUNS is consistent with a true one of at most alpha (exact, 99.9 %)."""
    events = round(share * RUNS)
    return 1.0 - exact_upper(RUNS - events, RUNS, 0.999) <= alpha


def test_one_bet_by_hand() -> None:
    """After x = 1 against m = 0.02 and low = -1 the stake of bet k is 1 + 0.95 k / 21 * 0.98 / 1.02."""
    stakes = [1 + BOLDEST * k / (NUM_BETS + 1) * 0.98 / 1.02 for k in range(1, NUM_BETS + 1)]
    assert log_evidence([1.0], threshold=0.02, low=-1.0)[0] == pytest.approx(math.log(np.mean(stakes)))
    assert len(log_evidence([], threshold=0.02, low=-1.0)) == 0


def test_a_mean_at_the_threshold_is_rejected_at_most_as_often_as_said() -> None:
    rng = np.random.default_rng(3)
    base, drop = 0.8, 0.05
    paths = [
        log_evidence(
            (rng.random(LENGTH) < base).astype(float) - (rng.random(LENGTH) < base - drop), threshold=drop, low=-1.0
        )
        for _ in range(RUNS)
    ]
    assert not_above(share_rejected(paths, 0.05), 0.05)
    assert not not_above(share_rejected([path + math.log(3) for path in paths], 0.05), 0.05)  # the check can fail


def test_a_fixed_level_test_that_is_looked_at_all_the_time_is_not_valid() -> None:
    """What the evidence is for: z tests at 5 % after every 20 of 600 equal pairs reject far more often than 5 %."""
    rng = np.random.default_rng(4)
    rejected = 0
    for _ in range(RUNS):
        x = rng.standard_normal(LENGTH)
        n = np.arange(20, LENGTH + 1, 20)
        rejected += bool((np.cumsum(x)[n - 1] / np.sqrt(n) > 1.645).any())
    assert not not_above(rejected / RUNS, 0.05)


def test_a_drop_of_twenty_points_is_found_near_its_published_time() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(RUNS):
        d = (rng.random(1000) < 0.8).astype(float) - (rng.random(1000) < 0.6)
        found.append(first_rejection(log_evidence(d, threshold=0.02, low=-1.0), 0.01))
    assert np.median([np.inf if n is None else n + 1 for n in found]) == pytest.approx(126, rel=0.15)


def test_the_interval_holds_the_mean_at_every_n_and_shrinks() -> None:
    rng = np.random.default_rng(6)
    missed, widths = 0, []
    for _ in range(100):
        x = (rng.random(400) < 0.3).astype(float)
        intervals = [interval_at_any_time(x[:n], low=0.0, high=1.0) for n in (1, 25, 100, 400)]
        missed += any(not i.low <= 0.3 <= i.high for i in intervals)
        widths.append([i.high - i.low for i in intervals])
    assert missed <= 11  # 5 % of 100 allows 5; 11 or more happens once in 100
    assert (np.diff(np.mean(widths, axis=0)) < 0).all()
    assert np.mean(widths, axis=0)[-1] < 0.2


def test_change_is_found_after_it_happened_and_a_late_one_as_fast() -> None:
    rng = np.random.default_rng(7)
    before, after = (rng.random(2000) < 0.2).astype(float), (rng.random(300) < 0.6).astype(float)
    alarm = first_rejection(log_change_evidence(np.concatenate([before, after]), threshold=0.25, low=0.0), 1e-4)
    assert alarm is not None and 2000 <= alarm < 2100
    plain = log_evidence(np.concatenate([before, after]), threshold=0.25, low=0.0)
    assert first_rejection(plain, 1e-4) is None  # evidence from the start drowns it


def test_change_evidence_by_hand() -> None:
    """With one multiplier L per step: M_1 = L, M_2 = L (L + 1)."""
    one = np.exp(log_evidence([1.0], threshold=0.5, low=0.0)[0])
    assert np.exp(log_change_evidence([1.0], threshold=0.5, low=0.0)[0]) == pytest.approx(one)
    bets = BOLDEST * np.arange(1, NUM_BETS + 1) / (NUM_BETS + 1) / 0.5
    multiplier = 1 + bets * 0.5
    second = np.exp(log_change_evidence([1.0, 1.0], threshold=0.5, low=0.0)[1])
    assert second == pytest.approx(np.mean(multiplier * (multiplier + 1)))


def test_a_fair_split_stays_quiet_and_an_uneven_one_is_found() -> None:
    rng = np.random.default_rng(8)
    fair = [log_split_evidence(rng.random(5000) < 0.5) for _ in range(RUNS)]
    assert not_above(share_rejected(fair, 0.01), 0.01)
    uneven = [first_rejection(log_split_evidence(rng.random(8000) < 0.55), 0.001) for _ in range(60)]
    assert np.median([np.inf if n is None else n for n in uneven]) == pytest.approx(1570, rel=0.2)


def test_split_evidence_by_hand() -> None:
    """The first unit has probability 1/2 under both hypotheses, a second one in the same arm 51/101 against 1/2."""
    assert np.exp(log_split_evidence(np.array([True, True]))) == pytest.approx([1.0, 51 / 101 / 0.5])


def test_rare_events_tolerate_their_ratio_and_find_a_large_one() -> None:
    rng = np.random.default_rng(9)
    at_limit = [log_excess_evidence(rng.random(60) < 0.6, ratio=1.5) for _ in range(RUNS)]  # 1.5 / 2.5
    assert not_above(share_rejected(at_limit, 0.05), 0.05)
    eightfold = log_excess_evidence(rng.random(60) < 8 / 9, ratio=1.5)
    assert first_rejection(eightfold, 0.01) is not None


def durations(rng, factor: float, n: int) -> tuple[list, list]:
    canary = factor * np.exp(rng.normal(2, 0.8, n))
    return [x[None] for x in canary], [x[None] for x in np.exp(rng.normal(2, 0.8, n))]


def test_a_slower_canary_is_found_and_one_at_the_tolerance_is_not() -> None:
    rng = np.random.default_rng(10)
    tails, bounds = [], []
    for _ in range(RUNS // 4):
        c, s = durations(rng, 1.15, 400)
        tails.append(log_tail_evidence(c, s, 1.15))
        bounds.append(slowdown_bound(np.log(np.concatenate(c)) - np.log(np.concatenate(s)), 0.05))
    assert share_rejected(tails, 0.05) <= 0.1
    assert np.mean([(bound > math.log(1.15)).any() for bound in bounds]) <= 0.1
    c, s = durations(rng, 2.0, 400)
    assert first_rejection(log_tail_evidence(c, s, 1.15), 0.01) is not None


def test_a_few_blocks_bound_nothing() -> None:
    assert (slowdown_bound(np.full(49, 9.0), 0.05) == -np.inf).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: log_evidence([0.5], threshold=0.0, low=0.0),
        lambda: log_evidence([-2.0], threshold=0.0, low=-1.0),
        lambda: log_evidence([math.nan], threshold=0.0, low=-1.0),
        lambda: first_rejection(np.zeros(3), 1.0),
        lambda: interval_at_any_time([2.0], low=0.0, high=1.0),
        lambda: interval_at_any_time([], low=0.0, high=1.0),
        lambda: log_split_evidence(np.array([True]), share=1.0),
        lambda: log_excess_evidence(np.array([True]), ratio=0.0),
        lambda: log_tail_evidence([np.ones(1)], [], 1.15),
    ],
)
def test_what_cannot_be_bet_on_is_refused(call) -> None:
    with pytest.raises(EvalError):
        call()

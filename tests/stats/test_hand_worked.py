"""Numbers worked by hand or published: Wilson, exact bounds, clustered and paired errors, pass^k, sizes."""

from __future__ import annotations

import math

import pytest
from scipy import stats as scipy_stats

from flyball.errors import EvalError
from flyball.stats.binomial import exact_upper, exact_upper_bound, wilson
from flyball.stats.design import Design, as_values
from flyball.stats.intervals import mean_interval, proportion_interval, quantile_interval, rate_interval, ratio_interval
from flyball.stats.paired import mcnemar_exact, paired_bound, paired_difference, relative_change
from flyball.stats.pass_k import pass_at_k, pass_hat_k
from flyball.stats.power import detectable_difference, more_needed, tasks_needed
from flyball.types import Estimate

MILLER = [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0]


def standard_error(estimate: Estimate, df: int) -> float:
    return (estimate.high - estimate.low) / 2 / float(scipy_stats.t.ppf(0.5 + estimate.level / 2, df))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(8, 10, 0.490, 0.943), (0, 20, 0.0, 0.161), (45, 50, 0.786, 0.957)]
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
    assert (interval.value, interval.n, interval.level) == (successes / n, n, 0.95)


@pytest.mark.parametrize(("n", "bound"), [(100, 0.0295), (300, 0.0099), (1000, 0.0030)])
def test_no_events_still_leave_room_for_some(n: int, bound: float) -> None:
    assert exact_upper(0, n) == pytest.approx(bound, abs=5e-5)


def test_exact_upper_bound_agrees_with_the_beta_quantile_and_is_an_estimate() -> None:
    interval = exact_upper_bound(3, 200)
    assert interval.high == pytest.approx(float(scipy_stats.beta.ppf(0.95, 4, 197)))
    assert (interval.value, interval.low) == (0.015, 0.0)
    assert exact_upper(5, 5) == 1.0


def test_clustered_standard_error() -> None:
    clusters = [i // 3 for i in range(12)]
    assert standard_error(mean_interval(MILLER, clusters=clusters), 3) == pytest.approx(0.288675, abs=1e-6)
    assert standard_error(mean_interval(MILLER), 11) == pytest.approx(0.150756, abs=1e-6)


def test_strata_remove_the_difference_between_families() -> None:
    """Families at 0.2 and 0.8 with 10 tasks each: SE^2 = (1/4)(0.16/9 + 0.16/9), where the plain one is 0.25/19."""
    values = [1, 1] + [0] * 8 + [1] * 8 + [0, 0]
    strata = ["a"] * 10 + ["b"] * 10
    assert standard_error(mean_interval(values, strata=strata), 18) == pytest.approx(math.sqrt(0.32 / 9 / 4))
    assert standard_error(mean_interval(values), 19) == pytest.approx(math.sqrt(0.25 / 19))


def test_paired_difference_is_tighter_than_unpaired() -> None:
    difference = paired_difference([1, 1, 1, 0, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0, 1, 1])
    assert difference.value == 0.25
    assert standard_error(difference, 7) == pytest.approx(0.163663, abs=1e-6)


def test_paired_difference_clusters_and_uses_t() -> None:
    """Clusters with differences (1,1), (0,0), (1,0), mean 1/2: residual totals 1, -1, 0; SE^2 = 3/2 * 2/36 = 1/12."""
    difference = paired_difference([1, 1, 0, 0, 1, 0], [0] * 6, clusters=["x", "x", "y", "y", "z", "z"])
    assert (difference.value, difference.clusters) == (0.5, 3)
    assert difference.high - 0.5 == pytest.approx(4.302653 * math.sqrt(1 / 12), abs=1e-5)


def test_mcnemar() -> None:
    assert mcnemar_exact(1, 8) == pytest.approx(0.0390625)
    assert mcnemar_exact(0, 0) == 1.0
    with pytest.raises(EvalError, match="cannot be negative"):
        mcnemar_exact(-1, 2)


def test_pass_k_is_unbiased() -> None:
    assert [pass_at_k(10, 3, k) for k in (1, 2, 5, 8)] == pytest.approx([0.3, 0.533333, 0.916667, 1.0], abs=1e-6)
    assert [pass_hat_k(10, 3, k) for k in (1, 2, 3, 4)] == pytest.approx([0.3, 0.066667, 0.008333, 0.0], abs=1e-6)
    assert [pass_hat_k(8, 6, k) for k in (1, 2, 4, 8)] == pytest.approx([0.75, 0.535714, 0.214286, 0.0], abs=1e-6)
    with pytest.raises(EvalError, match="run more trials"):
        pass_hat_k(4, 2, 5)


def test_sample_sizes() -> None:
    assert tasks_needed(0.03, between=1 / 9) == 969
    assert tasks_needed(0.03, between=1 / 9, within=1 / 3) == 3876
    assert tasks_needed(0.03, between=1 / 9, within=1 / 3, num_trials=10) == 1260
    assert detectable_difference(969, between=1 / 9) == pytest.approx(0.03, abs=1e-5)
    with pytest.raises(EvalError, match="delta 0"):
        tasks_needed(0.0, between=1.0)


def test_more_needed_follows_the_gap() -> None:
    """Half width 0.1 around 0.05: with z 1.96 and power 0.8 (z 0.8416), n must grow (2 * 2.8016 / 1.96)^2 = 8.1725."""
    estimate = Estimate(0.05, -0.05, 0.15, n=100)
    assert more_needed(estimate) == 718
    assert more_needed(estimate, threshold=0.05) is None
    assert (more_needed(estimate, threshold=-0.03) or 0) < 718
    assert more_needed(Estimate(0.05, -math.inf, math.inf, n=1)) is None


def test_median_interval_takes_binomial_ranks() -> None:
    """100 ordered values: the exact 95 % ranks of the median are 40 and 61."""
    median = quantile_interval([float(i) for i in range(1, 101)], 0.5)
    assert (median.value, median.low, median.high) == (50.0, 40.0, 61.0)


def test_quantile_says_when_the_sample_cannot_bound_it() -> None:
    assert quantile_interval([float(i) for i in range(20)], 0.95).high == math.inf


def test_quantile_widens_when_values_come_in_clusters() -> None:
    values = [float(i // 10) for i in range(200)]
    alone, together = (
        quantile_interval(values, 0.5),
        quantile_interval(values, 0.5, clusters=[i // 10 for i in range(200)]),
    )
    assert together.high - together.low > alone.high - alone.low


def test_rate_of_trials_is_wilson_at_the_effective_size() -> None:
    """Four tasks of two calls, errors 2, 0, 2, 0: clustering doubles the variance of 8 calls, and t(3) widens it."""
    alone, clustered = wilson(4, 8), rate_interval([2, 0, 2, 0], [2, 2, 2, 2])
    assert (clustered.value, clustered.n, clustered.clusters) == (0.5, 8, 4)
    assert clustered.low < alone.low and clustered.high > alone.high
    effective = 0.25 / (1 / 12) * (1.959964 / 3.182446) ** 2
    ratio = 1.959964**2 / effective
    assert clustered.high == pytest.approx(
        (0.5 + ratio / 2 + math.sqrt(ratio / 4 + ratio**2 / 4)) / (1 + ratio), abs=1e-6
    )


def test_cost_per_success_is_fieller() -> None:
    """Cost 1 each, 8 of 10 succeed: a constant cost makes Fieller the inverse of the t(9) interval of 0.8."""
    interval = ratio_interval([1.0] * 10, [1] * 8 + [0] * 2)
    half = 2.262157 * math.sqrt(0.8 * 0.2 / 9)
    assert interval.value == 1.25
    assert interval.low == pytest.approx(1 / (0.8 + half), abs=1e-5)
    assert interval.high == pytest.approx(1 / (0.8 - half), abs=1e-5)


def test_cost_per_success_without_enough_successes_is_open_above() -> None:
    rare = ratio_interval([1.0] * 10, [1] + [0] * 9)
    assert rare.value == 10.0 and 1.0 < rare.low < 10.0 and rare.high == math.inf
    none = ratio_interval([2.0] * 10, [0] * 10)
    assert none.value == math.inf and none.low == pytest.approx(2.0 / exact_upper(0, 10, 0.975))


def test_relative_change_of_totals_and_of_cost_per_success() -> None:
    same = relative_change([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))
    cheaper = relative_change([1.0] * 40, [1.0] * 40, candidate_per=[1] * 40, baseline_per=[1, 0] * 20)
    # only the baseline's successes vary: SE of log 0.5 = sqrt(0.25 / 39) / 0.5, t(39) = 2.022691
    half = 2.022691 * math.sqrt(0.25 / 39) / 0.5
    assert cheaper.value == pytest.approx(-0.5)
    assert (cheaper.low, cheaper.high) == pytest.approx((0.5 * math.exp(-half) - 1, 0.5 * math.exp(half) - 1), abs=1e-6)
    with pytest.raises(EvalError, match="baseline_per"):
        relative_change([1.0], [1.0], candidate_per=[1], baseline_per=[0])


def test_one_sided_bound_is_the_end_of_a_wider_two_sided_interval() -> None:
    a, b = [1, 1, 0, 1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0, 0, 1, 0, 0]
    bound = paired_bound(a, b, side="lower", bounds=(-1, 1))
    assert bound.low == paired_difference(a, b, level=0.90, bounds=(-1, 1)).low
    assert (bound.high, bound.level) == (1, 0.95)
    assert paired_bound(a, b, side="upper").low == -math.inf


# --- small samples ---------------------------------------------------------------------------------------------------


def test_nothing_observed_has_no_value() -> None:
    for estimate in (mean_interval, proportion_interval, lambda v: paired_difference(v, v)):
        with pytest.raises(EvalError, match="at least one observation"):
            estimate([])
    with pytest.raises(EvalError, match="no trials"):
        rate_interval([0, 0], [0, 0])
    with pytest.raises(EvalError, match=r"values\[1\] is nan"):
        mean_interval([1.0, math.nan])


def test_one_unit_is_never_certain() -> None:
    assert mean_interval([3.5]).high == math.inf
    one = proportion_interval([1])
    assert one.low == pytest.approx(wilson(1, 1).low) and one.low < 0.25
    difference = paired_difference([1], [0], bounds=(-1, 1))
    assert (difference.low, difference.high) == (-1, 1)


def test_all_equal_is_never_certain_for_yes_or_no() -> None:
    assert mean_interval([1.0] * 20).low == pytest.approx(wilson(20, 20).low)
    clustered = proportion_interval([1] * 40, clusters=[i // 10 for i in range(40)])
    assert clustered.low == pytest.approx(wilson(4, 4).low), "four clusters are four looks, not forty"


def test_all_pairs_equal_leave_room_for_an_unseen_difference() -> None:
    difference = paired_difference([1, 0] * 50, [1, 0] * 50, bounds=(-1, 1))
    unseen = exact_upper(0, 100, 0.975)
    assert (difference.value, difference.low, difference.high) == (0.0, -unseen, unseen)


def test_few_discordant_pairs_do_not_decide() -> None:
    """Five wins and no loss in 100: McNemar p = 0.0625, so the interval must hold 0; six wins may exclude it."""
    five = paired_difference([1] * 5 + [0] * 95, [0] * 100, bounds=(-1, 1))
    assert five.low < 0.0 < five.high and "widened" in five.method
    assert paired_difference([1] * 6 + [0] * 94, [0] * 100, bounds=(-1, 1)).low > 0.0


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(EvalError, match="same tasks"):
        paired_difference([1, 0], [1])
    with pytest.raises(EvalError, match="2 labels for 3 values"):
        mean_interval([1, 2, 3], clusters=["a", "b"])


# --- designs that cannot give a variance on their own ----------------------------------------------------------------


def test_strata_that_share_a_cluster_are_merged() -> None:
    design = Design.of(4, clusters=["x", "x", "y", "y"], strata=["a", "b", "a", "b"])
    assert design.stratum_of_cluster.tolist() == [0, 0]
    assert design.degrees == 1


def test_lone_clusters_are_pooled_and_never_read_as_no_variance() -> None:
    design = Design.of(6, clusters=list("aabbcc"), strata=list("xxyyzz"))
    assert design.clusters == 3 and design.degrees == 2
    assert design.spread(design.residuals(as_values([0, 0, 1, 1, 0, 0])) / 6).variance > 0
    one = Design.of(5, strata=["a", "a", "a", "b", "b"], clusters=[0, 1, 2, 3, 3])
    assert one.degrees == 3, "a single lone stratum joins the largest"


def test_satterthwaite_gives_the_degrees_of_the_strata_that_vary() -> None:
    """Two families of 10 tasks; only one varies, so 9 degrees of freedom, not 18."""
    design = Design.of(20, strata=[0] * 10 + [1] * 10)
    spread = design.spread(design.residuals(as_values([1, 0] * 5 + [1] * 10)) / 20)
    assert spread.df == pytest.approx(9.0)

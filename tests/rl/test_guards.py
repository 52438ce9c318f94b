"""Each guard: a history that trips it, and the healthy ones that must not."""

from __future__ import annotations

import math

import pytest

from flyball.rl.guards import COLLAPSE, LASTING, MAX_KL, MIN_ENTROPY, instability

HEALTHY = {"kl": 0.1, "entropy": 0.5, "success_rate": 0.5}


def history(**curves: list[float]) -> list[dict[str, float]]:
    """Steps that are healthy apart from the curves given."""
    length = max(map(len, curves.values()))
    return [HEALTHY | {name: curve[i] for name, curve in curves.items()} for i in range(length)]


def test_a_healthy_run_goes_on() -> None:
    assert instability([]) is None
    assert instability([HEALTHY] * 50) is None


def test_kl_that_stays_high_stops() -> None:
    reason = instability(history(kl=[0.2, *[MAX_KL + 0.5] * LASTING]))
    assert reason is not None and reason.startswith("kl 1.5 nats/token is above")


def test_kl_that_peaks_goes_on() -> None:
    high = MAX_KL + 0.5
    assert instability(history(kl=[high] * (LASTING - 1))) is None
    assert instability(history(kl=[high, high, 0.2])) is None
    assert instability(history(kl=[MAX_KL] * LASTING)) is None, "the bound itself is allowed"


def test_entropy_that_vanished_stops() -> None:
    reason = instability(history(entropy=[0.4, *[MIN_ENTROPY / 2] * LASTING]))
    assert reason is not None and "explores nothing" in reason


def test_low_entropy_for_a_moment_goes_on() -> None:
    assert instability(history(entropy=[0.4, MIN_ENTROPY / 2, MIN_ENTROPY / 2])) is None
    assert instability(history(entropy=[MIN_ENTROPY] * LASTING)) is None


def test_steps_without_an_update_say_nothing_about_kl_or_entropy() -> None:
    """A batch without signal has neither; that is no sign of anything."""
    assert instability([{"success_rate": 1.0}] * 20) is None


def test_success_that_collapses_stops() -> None:
    reason = instability(history(success_rate=[0.6] * 6 + [0.29] * LASTING))
    assert reason == "success fell to 29.0% from 60.0% (means of 3 steps)"


@pytest.mark.parametrize(
    "rates",
    [
        [0.6] * 6 + [0.6 * COLLAPSE + 0.01] * LASTING,  # half is still allowed
        [0.6] * 8 + [0.0],  # one bad step
        [0.19] * 6 + [0.05] * LASTING,  # it never could do much, so this is noise
        [0.9, 0.9, 0.9, 0.1, 0.1, 0.1],  # too early to tell
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    ],
)
def test_success_that_wavers_goes_on(rates: list[float]) -> None:
    assert instability(history(success_rate=rates)) is None


def test_steps_whose_outcomes_are_all_missing_are_left_out() -> None:
    steps = history(success_rate=[0.6] * 9)
    for step in steps[-3:]:
        del step["success_rate"]
    assert instability(steps) is None


def test_a_kl_that_is_no_number_is_left_to_the_learner() -> None:
    """The learner refuses NaN where it arises; a guard that compares it must not pass for healthy by accident."""
    assert instability(history(kl=[math.inf] * LASTING)) is not None

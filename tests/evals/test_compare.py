"""Verdicts from the interval and margin; missing counts against the candidate; unlike runs are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flyball.errors import EvalError, Fault
from flyball.evals.compare import compare
from flyball.types import Missing
from tests.evals.desk import result, run

CRASH = Missing("engine_error", Fault.INFRASTRUCTURE)


def arms(before: list, after: list, **over):
    baseline = run([result(f"t{i:03}", v, **over) for i, v in enumerate(before)], "base")
    return baseline, run([result(f"t{i:03}", v, **over) for i, v in enumerate(after)], "cand")


def test_accept_reject_inconclusive() -> None:
    worse, better = [False] * 40 + [True] * 60, [False] * 10 + [True] * 90
    accepted = compare(*arms(worse, better))
    assert accepted.verdict == "accept" and accepted.difference.value == pytest.approx(0.3)
    assert (accepted.baseline, accepted.candidate, accepted.more_needed) == ("base", "cand", None)
    assert compare(*arms(better, worse)).verdict == "reject"
    unclear = compare(*arms([True, False] * 50, [True, False] * 46 + [True] * 8))
    assert unclear.verdict == "inconclusive" and (unclear.more_needed or 0) > 0


def test_margin_asks_for_no_loss_or_for_a_gain() -> None:
    same = arms([True, False] * 200, [True, False] * 200)
    assert compare(*same).verdict == "inconclusive", "no difference is no improvement"
    assert compare(*same, margin=0.03).verdict == "accept", "400 equal pairs show no loss beyond 3 points"
    worse, better = [False] * 40 + [True] * 60, [False] * 10 + [True] * 90
    assert compare(*arms(worse, better), margin=-0.15).verdict == "accept", "30 points, shown to be above 15"
    assert compare(*arms(worse, better), margin=-0.28).verdict == "inconclusive"


def test_missing_counts_zero_for_the_candidate_and_one_for_the_baseline() -> None:
    comparison = compare(*arms([CRASH, False, True, True], [True, CRASH, CRASH, True]))
    assert comparison.baseline_estimate.value == 0.75
    assert comparison.candidate_estimate.value == 0.5
    assert comparison.difference.value == -0.25


def test_a_candidate_that_crashes_on_its_failures_gains_nothing() -> None:
    """Equal in truth, 30 % of the candidate's own failures crash: dropped pairs would show a gain of 4.7 points."""
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(40):
        before, after = rng.random((2, 300)) < 0.7
        shown = [bool(v) if v or rng.random() > 0.3 else CRASH for v in after]
        accepted += compare(*arms([bool(v) for v in before], shown)).verdict == "accept"
    assert accepted <= 4


def test_trials_of_a_task_are_one_unit_and_templates_are_clusters() -> None:
    def two_trials(values: list[tuple[bool, bool]], version: str):
        pairs = [(i, t, v) for i, pair in enumerate(values) for t, v in enumerate(pair)]
        return run([result(f"t{i}", v, trial=t, cluster=f"c{i // 2}") for i, t, v in pairs], version)

    comparison = compare(
        two_trials([(True, False), (False, False), (True, True), (True, False)], "base"),
        two_trials([(True, True), (True, False), (True, True), (True, True)], "cand"),
    )
    assert (comparison.difference.value, comparison.difference.n, comparison.difference.clusters) == (0.375, 4, 2)


def test_lower_is_better_for_amounts_and_a_missing_attempt_is_not_a_cheap_one() -> None:
    dear = run([result(f"t{i:02}", tokens_out=100 + i % 5) for i in range(40)], "base")
    cheap = run([result(f"t{i:02}", tokens_out=50 + i % 3) for i in range(40)], "cand")
    assert compare(dear, cheap, "tokens_out").verdict == "accept"
    assert compare(cheap, dear, "tokens_out").verdict == "reject"
    crashed = run([replace(r, success=CRASH, tokens_out=0) for r in cheap.results], "cand")
    assert compare(dear, crashed, "tokens_out").candidate_estimate.value == 104


def test_scores_compare_by_name() -> None:
    before = run([result(f"t{i:02}", scores={"polite": 0.5 + 0.01 * (i % 3)}) for i in range(40)], "base")
    after = run([result(f"t{i:02}", scores={"polite": 0.9 if i else None}) for i in range(40)], "cand")
    comparison = compare(before, after, "polite")
    assert comparison.verdict == "accept"
    assert comparison.candidate_estimate.value == pytest.approx(0.9 * 39 / 40), "the missing score counts as 0"
    with pytest.raises(EvalError, match="did you mean 'polite'"):
        compare(before, after, "politte")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suite_digest": "other"}, "suite_digest 'digest'"),
        ({"grader_version": "graders-2"}, "a grader change is a policy change"),
        ({"num_trials": 2}, "trials must match"),
    ],
)
def test_runs_under_other_conditions_are_refused(change, words) -> None:
    baseline, candidate = arms([True, False], [True, True])
    with pytest.raises(EvalError, match=words):
        compare(baseline, replace(candidate, **change))


def test_results_left_out_or_repeated_are_refused() -> None:
    baseline, candidate = arms([True, False, True], [True, True, True])
    with pytest.raises(EvalError, match="first task 't002' trial 0"):
        compare(baseline, replace(candidate, results=candidate.results[:2]))
    with pytest.raises(EvalError, match="twice"):
        compare(baseline, replace(candidate, results=(*candidate.results, candidate.results[0])))
    with pytest.raises(EvalError, match="no results"):
        compare(replace(baseline, results=()), replace(candidate, results=()))


def test_safety_without_a_verdict_is_refused() -> None:
    with pytest.raises(EvalError, match="without a safety verdict"):
        compare(*arms([True], [True], safe=None), metric="safe")

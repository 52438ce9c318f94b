"""Candidate against baseline on one suite: paired by task, stratified by family, clustered by `Task.cluster`.

Missing results count against the candidate (invariant 2): a yes-or-no metric or score takes the worst value for the
candidate and the best for the baseline; an unbounded one takes the worst and best that either arm showed. Dropping
such pairs instead lets a candidate that crashes on its own failures look better than it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flyball.errors import EvalError, nearest
from flyball.stats.design import Floats
from flyball.stats.intervals import mean_interval, proportion_interval
from flyball.stats.paired import paired_difference
from flyball.stats.power import more_needed
from flyball.types import Comparison, Estimate, EvalRun, Missing, TaskResult

Verdict = Literal["accept", "reject", "inconclusive"]
Arm = Literal["candidate", "baseline"]


@dataclass(frozen=True)
class Measure:
    """How a metric is read from one trial (None = missing) and which way is good. `bounded`: values in [0, 1]."""

    read: Callable[[TaskResult], float | None]
    higher_is_better: bool
    bounded: bool
    unit: str


def compare(
    baseline: EvalRun,
    candidate: EvalRun,
    metric: str = "success",
    margin: float = 0.0,
    level: float = 0.95,
    changed: Collection[str] = (),
) -> Comparison:
    """Candidate minus baseline with a verdict at `margin`, in the metric's unit.

    accept: the whole interval is better than `margin` worse; reject: the whole interval is not. So 0 asks for proof of
    an improvement, 0.03 for proof of no loss beyond 3 points, -0.15 for proof of a gain above 15 points.
    `metric` is one of `MEASURES` or the name of a score. Raises EvalError when the runs may not be compared: only the
    policy may have changed, and the conditions that are named in `changed`.
    """
    if not math.isfinite(margin):
        raise EvalError(f"margin {margin}: no loss could be held against it; write a number in the metric's unit")
    _check_same_conditions(baseline, candidate, changed)
    measure = _measure(metric, baseline)
    values = _filled(baseline, candidate, measure)
    results = baseline.results
    before, families, clusters = _by_task(results, values["baseline"])
    after, _, _ = _by_task(results, values["candidate"])
    difference = paired_difference(
        after,
        before,
        strata=families,
        clusters=clusters,
        level=level,
        bounds=(-1.0, 1.0) if measure.bounded else None,
        unit=measure.unit,
    )
    threshold = -margin if measure.higher_is_better else margin
    verdict = _verdict(difference, threshold, measure.higher_is_better)
    return Comparison(
        suite=baseline.suite,
        suite_digest=baseline.suite_digest,
        baseline=baseline.version_id,
        candidate=candidate.version_id,
        metric=metric,
        difference=difference,
        baseline_estimate=_level(results, values["baseline"], measure, level),
        candidate_estimate=_level(results, values["candidate"], measure, level),
        verdict=verdict,
        margin=margin,
        more_needed=more_needed(difference, threshold) if verdict == "inconclusive" else None,
    )


# --- what can be compared --------------------------------------------------------------------------------------------


def _share(name: Literal["success", "safe"]) -> Measure:
    def read(result: TaskResult) -> float | None:
        value = getattr(result, name)
        return None if isinstance(value, Missing) else float(value)

    return Measure(read, higher_is_better=True, bounded=True, unit="share")


def _amount(field: str, unit: str) -> Measure:
    def read(result: TaskResult) -> float | None:
        return None if isinstance(result.success, Missing) else float(getattr(result, field))

    return Measure(read, higher_is_better=False, bounded=False, unit=unit)


def _score(name: str) -> Measure:
    return Measure(lambda result: result.scores.get(name), higher_is_better=True, bounded=True, unit="score")


MEASURES: dict[str, Measure] = {
    "success": _share("success"),
    "safe": _share("safe"),
    "tool_calls": _amount("tool_calls", "calls/attempt"),
    "tool_errors": _amount("tool_errors", "calls/attempt"),
    "hallucinated_tools": _amount("hallucinated_tools", "calls/attempt"),
    "hallucinated_parameters": _amount("hallucinated_parameters", "calls/attempt"),
    "tokens_in": _amount("tokens_in", "tokens/attempt"),
    "tokens_out": _amount("tokens_out", "tokens/attempt"),
    "tool_seconds": _amount("tool_seconds", "s"),
    "wall_seconds": _amount("wall_seconds", "s"),
    "cost_usd": _amount("cost_usd", "USD"),
}
"""Metrics of one trial that can be compared. Scores of graders can be compared by their own names."""


def _measure(metric: str, run: EvalRun) -> Measure:
    scores = {name for result in run.results for name in result.scores}
    if metric == "safe" and any(result.safe is None for result in run.results):
        raise EvalError(f"suite {run.suite!r} has results without a safety verdict; give the workflow a safety grader")
    if metric in MEASURES:
        return MEASURES[metric]
    if metric in scores:
        return _score(metric)
    raise EvalError(f"metric {metric!r} is neither a measure nor a score{nearest(metric, [*MEASURES, *scores])}")


def _check_same_conditions(baseline: EvalRun, candidate: EvalRun, changed: Collection[str]) -> None:
    for what, why in (
        ("suite_digest", "the tasks or the world changed"),
        ("grader_version", "a grader change is a policy change"),
        ("num_trials", "trials must match"),
    ):
        before, after = getattr(baseline, what), getattr(candidate, what)
        if before != after:
            raise EvalError(f"{what} {before!r} (baseline) and {after!r} (candidate): {why}; evaluate both again alike")
    for name in sorted({*baseline.slices, *candidate.slices}):
        if set(baseline.slices.get(name, ())) != set(candidate.slices.get(name, ())):
            raise EvalError(f"slice {name!r} is not the same tasks in both runs; evaluate both again alike")
    for name in sorted({*baseline.conditions, *candidate.conditions} - {*changed}):
        known, now = baseline.conditions.get(name, "not recorded"), candidate.conditions.get(name, "not recorded")
        if known != now:
            raise EvalError(
                f"{name} is {known} (baseline) and {now} (candidate): more than the policy changed, so a difference "
                "would not be the policy's; evaluate both again alike"
            )
    before_keys, after_keys = _keys(baseline), _keys(candidate)
    if not before_keys:
        raise EvalError(f"suite {baseline.suite!r}: the runs have no results; evaluate first")
    if before_keys != after_keys:
        task_id, trial = min(before_keys ^ after_keys)
        raise EvalError(
            f"suite {baseline.suite!r}: {len(before_keys ^ after_keys)} trials were run by one version only, first "
            f"task {task_id!r} trial {trial}; a missing result is recorded as Missing, never left out"
        )


def _keys(run: EvalRun) -> set[tuple[str, int]]:
    keys = {(result.task_id, result.trial) for result in run.results}
    if len(keys) != len(run.results):
        raise EvalError(f"run {run.run_id} of {run.version_id} has a trial of a task twice; every trial counts once")
    return keys


# --- values ----------------------------------------------------------------------------------------------------------


def _filled(baseline: EvalRun, candidate: EvalRun, measure: Measure) -> dict[Arm, Floats]:
    """One value per trial and arm, in the order of the baseline's results, missing ones filled in."""
    by_key = {(result.task_id, result.trial): result for result in candidate.results}
    after = [measure.read(by_key[result.task_id, result.trial]) for result in baseline.results]
    before = [measure.read(result) for result in baseline.results]
    seen = [value for value in (*before, *after) if value is not None]
    if not seen and not measure.bounded:
        raise EvalError(f"suite {baseline.suite!r}: every result of both versions is missing; nothing can be compared")
    least, most = (0.0, 1.0) if measure.bounded else (min(seen), max(seen))
    worst, best = (least, most) if measure.higher_is_better else (most, least)
    return {
        "candidate": np.asarray([worst if value is None else value for value in after]),
        "baseline": np.asarray([best if value is None else value for value in before]),
    }


def _by_task(results: Sequence[TaskResult], values: Floats) -> tuple[list[float], list[str], list[str]]:
    """Mean over the trials of each task, with its family and cluster."""
    trials: dict[str, list[float]] = {}
    labels: dict[str, tuple[str, str]] = {}
    for result, value in zip(results, values, strict=True):
        trials.setdefault(result.task_id, []).append(float(value))
        labels[result.task_id] = (result.family, result.cluster)
    means = [math.fsum(each) / len(each) for each in trials.values()]
    return means, [family for family, _ in labels.values()], [cluster for _, cluster in labels.values()]


def _level(results: Sequence[TaskResult], values: Floats, measure: Measure, level: float) -> Estimate:
    interval = proportion_interval if measure.bounded else mean_interval
    strata, clusters = [result.family for result in results], [result.cluster for result in results]
    return interval(values, clusters=clusters, strata=strata, level=level, unit=measure.unit)


def _verdict(difference: Estimate, threshold: float, higher_is_better: bool) -> Verdict:
    above, below = difference.low > threshold, difference.high < threshold
    better, worse = (above, below) if higher_is_better else (below, above)
    return "accept" if better else "reject" if worse else "inconclusive"

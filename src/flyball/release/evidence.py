"""What a gate may look at: paired evaluation runs, comparisons, a token speed and a rollback drill.

Evidence is data and decides nothing. Anything may be absent; a gate that misses what it needs says `not_evaluable`
(invariant 7). Two runs are only paired when they ran the same frozen suite with the same graders, and every task has
all its trials on both sides: a trial that silently went missing would otherwise count for whoever lost it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flyball.errors import ReleaseError
from flyball.release.live import Live
from flyball.release.rollback import Drill
from flyball.types import Comparison, EvalRun, Missing, TaskResult

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TokenSpeed:
    """Seconds per token, calibrated once and applied to both versions, so that a busy machine favours neither."""

    seconds_per_token_in: float
    seconds_per_token_out: float
    measured_on: str

    def __post_init__(self) -> None:
        rates = (self.seconds_per_token_in, self.seconds_per_token_out)
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise ReleaseError(
                f"token speed {rates} seconds per token (in, out): both must be finite and above 0; "
                "measure them on the engine that will serve both versions"
            )

    def seconds(self, result: TaskResult) -> float:
        """Latency of one trial: its tokens at this speed plus the time spent waiting for tools."""
        return (
            result.tokens_in * self.seconds_per_token_in
            + result.tokens_out * self.seconds_per_token_out
            + result.tool_seconds
        )


@dataclass(frozen=True)
class TaskPair:
    """All trials of one task, by both versions."""

    task_id: str
    family: str
    cluster: str
    baseline: tuple[TaskResult, ...]
    candidate: tuple[TaskResult, ...]


@dataclass(frozen=True)
class SuitePair:
    """One suite run by the baseline and by the candidate. `pairs` is only valid when `problem` is None."""

    suite: str
    baseline: EvalRun
    candidate: EvalRun

    @property
    def problem(self) -> str | None:
        """Why these two runs must not be compared, or None."""
        for what in ("suite_digest", "grader_version", "num_trials"):
            before, after = getattr(self.baseline, what), getattr(self.candidate, what)
            if before != after:
                return f"{self.suite}: baseline has {what} {before!r}, candidate {after!r}; evaluate both again alike"
        for arm, run in (("baseline", self.baseline), ("candidate", self.candidate)):
            if trouble := _incomplete(run):
                return f"{self.suite}, {arm}: {trouble}"
        one_sided = {r.task_id for r in self.baseline.results} ^ {r.task_id for r in self.candidate.results}
        if one_sided:
            return f"{self.suite}: {len(one_sided)} tasks were run by one version only, first {min(one_sided)!r}"
        return None

    @property
    def pairs(self) -> tuple[TaskPair, ...]:
        """One pair per task, in the order of the baseline's run."""
        before, after = _by_task(self.baseline), _by_task(self.candidate)
        return tuple(
            TaskPair(task_id, trials[0].family, trials[0].cluster, trials, after[task_id])
            for task_id, trials in before.items()
        )


def _by_task(run: EvalRun) -> dict[str, tuple[TaskResult, ...]]:
    trials: dict[str, list[TaskResult]] = defaultdict(list)
    for result in run.results:
        trials[result.task_id].append(result)
    return {task_id: tuple(found) for task_id, found in trials.items()}


def _incomplete(run: EvalRun) -> str | None:
    if not run.results:
        return "the run has no results"
    seen = Counter((result.task_id, result.trial) for result in run.results)
    if repeated := [key for key, count in seen.items() if count > 1]:
        return f"task {repeated[0][0]!r} has trial {repeated[0][1]} more than once"
    per_task = Counter(result.task_id for result in run.results)
    short = [task_id for task_id, count in per_task.items() if count != run.num_trials]
    if short:
        return f"{len(short)} tasks lack some of their {run.num_trials} trials, first {short[0]!r}"
    return None


@dataclass(frozen=True)
class Evidence:
    """Everything known about a candidate against its baseline; all of it optional.

    `primary` is the suite on which success must improve. `adversarial` is the suite without which nothing is known
    about safety; every other suite with safety verdicts is judged as well. `slice_margins`: the protected slices, and
    the loss of success borne on each.
    """

    suites: Mapping[str, SuitePair] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    token_speed: TokenSpeed | None = None
    drill: Drill | None = None
    live: Live | None = None
    baseline: str = ""
    candidate: str = ""
    primary: str = "test"
    adversarial: str = "adversarial"
    slice_margins: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_runs(
        cls,
        baseline: Iterable[EvalRun],
        candidate: Iterable[EvalRun],
        *,
        comparisons: Iterable[Comparison] = (),
        token_speed: TokenSpeed | None = None,
        drill: Drill | None = None,
        primary: str = "test",
        adversarial: str = "adversarial",
        slice_margins: Mapping[str, float] | None = None,
    ) -> Evidence:
        """Pair the runs by suite. Raises ReleaseError when an arm mixes versions or has a suite twice.

        A suite run by one version only is refused too: leaving a suite out is how a bad one would be hidden.
        """
        before, after = _by_suite("baseline", baseline), _by_suite("candidate", candidate)
        if before.keys() != after.keys():
            lonely = sorted(before.keys() ^ after.keys())
            raise ReleaseError(f"suites {', '.join(lonely)} were run by one version only; evaluate both on them")
        return cls(
            suites={suite: SuitePair(suite, before[suite], after[suite]) for suite in before},
            comparisons=tuple(comparisons),
            token_speed=token_speed,
            drill=drill,
            baseline=_version("baseline", before.values()),
            candidate=_version("candidate", after.values()),
            primary=primary,
            adversarial=adversarial,
            slice_margins=slice_margins or {},
        )

    def problem(self) -> str | None:
        """Why these runs must not be judged, or None. One bad suite spoils all: it may be the one that matters."""
        if not self.suites:
            return "no suite was run by both versions"
        problems = (pair.problem for pair in self.suites.values())
        return next((problem for problem in problems if problem is not None), None)


def _by_suite(arm: str, runs: Iterable[EvalRun]) -> dict[str, EvalRun]:
    found: dict[str, EvalRun] = {}
    for run in runs:
        if run.suite in found:
            raise ReleaseError(
                f"the {arm} has two runs of suite {run.suite!r}; say which one counts by passing only it"
            )
        found[run.suite] = run
    return found


def _version(arm: str, runs: Iterable[EvalRun]) -> str:
    versions = sorted({run.version_id for run in runs})
    if len(versions) > 1:
        raise ReleaseError(f"the {arm} mixes versions {', '.join(versions)}; one arm is one version")
    return versions[0] if versions else ""


def counted(value: bool | Missing, *, when_missing: bool) -> float:
    """A verdict as 0 or 1, where missing takes the side that hurts the candidate (invariant 2)."""
    return float(when_missing if isinstance(value, Missing) else value)


def per_task(pairs: Iterable[TaskPair], arm: str, of: Callable[[TaskResult], float]) -> Values:
    """Sum of `of` over the trials of each task: [P]."""
    return np.asarray([sum(of(trial) for trial in getattr(pair, arm)) for pair in pairs], np.float64)

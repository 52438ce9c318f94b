"""The numbers of one run: by split, family and stage, each with n and interval (invariant 6).

Trials are clustered by `Task.cluster` and stratified by family. A missing outcome is neither dropped nor hidden: the
value and the lower bound count it as failure, the upper bound as success, and `missing_rate` stands beside it.

Names are those of `flyball.metrics`; `tool_calls_p95` is the 95th percentile of `tool_calls`; `pass_hat_2` (3, ...) and
`pass_at_2` (3, ...) are pass^k and pass@k for every k up to the number of trials. A number that has no value is absent:
the rate of tool errors without a tool call, the shares of drift without a sampled call, `safe` without a safety grader.

`human_override_rate` of an offline run is the share of attempts in which the declared approver refused a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from flyball.errors import EvalError
from flyball.stats.design import Floats
from flyball.stats.intervals import (
    mean_interval,
    proportion_interval,
    quantile_interval,
    rate_interval,
    ratio_interval,
)
from flyball.stats.pass_k import pass_at_k, pass_hat_k
from flyball.stats.reliability import reliability_interval
from flyball.types import Estimate, EvalRun, Missing, TaskResult

By = Literal["all", "split", "family", "stage"]


@dataclass(frozen=True)
class Row:
    """The numbers of one group of results, by metric name. `num_results` counts trials, missing ones included."""

    by: By
    group: str
    num_results: int
    numbers: dict[str, Estimate]


def summarise(
    run: EvalRun, *, level: float = 0.95, latency: Callable[[TaskResult], float] | None = None
) -> tuple[Row, ...]:
    """One row for all results, then one for each split, family and stage, in the order they appear.

    `latency` gives the seconds of one trial, such as tokens at a calibrated rate plus tool time; without it there is
    no `latency_seconds`.
    """
    if not run.results:
        raise EvalError(f"run {run.run_id} has no results; evaluate first")
    rows = [Row("all", "all", len(run.results), _numbers(run.results, level, latency))]
    groups: tuple[By, ...] = ("split", "family", "stage")
    for by in groups:
        for group, results in _grouped(run.results, by):
            rows.append(Row(by, group, len(results), _numbers(results, level, latency)))
    return tuple(rows)


def _grouped(results: Sequence[TaskResult], by: By) -> Iterator[tuple[str, list[TaskResult]]]:
    groups: dict[str, list[TaskResult]] = {}
    for result in results:
        groups.setdefault(getattr(result, by), []).append(result)
    yield from groups.items()


class _Columns:
    """Results as arrays, [n] each, and estimates that know their sampling design."""

    def __init__(self, results: Sequence[TaskResult], level: float) -> None:
        self.results = results
        self.strata = [result.family for result in results]
        self.clusters = [result.cluster for result in results]
        self.level = level

    def of(self, read: Callable[[TaskResult], float]) -> Floats:
        return np.asarray([read(result) for result in self.results], np.float64)

    def share(self, read: Callable[[TaskResult], bool]) -> Estimate:
        return self.rate(self.of(read), np.ones(len(self.results)))

    def share_with_missing(self, read: Callable[[TaskResult], bool | Missing | None]) -> Estimate:
        """A share whose interval holds whatever the missing results would have been."""
        missing = sum(isinstance(read(result), Missing) for result in self.results)
        low = self.share(lambda result: read(result) is True)
        if not missing:
            return low
        high = self.share(lambda result: read(result) is True or isinstance(read(result), Missing))
        return replace(low, high=high.high, method=f"{low.method}, {missing} missing counted both ways")

    def mean(self, read: Callable[[TaskResult], float], unit: str) -> Estimate:
        """Mean of an amount, which is never below 0."""
        mean = mean_interval(self.of(read), clusters=self.clusters, strata=self.strata, level=self.level, unit=unit)
        return replace(mean, low=max(0.0, mean.low))

    def rate(self, events: Floats, trials: Floats) -> Estimate:
        return rate_interval(events, trials, clusters=self.clusters, strata=self.strata, level=self.level)

    def ratio(self, numerators: Floats, denominators: Floats, unit: str) -> Estimate:
        return ratio_interval(
            numerators, denominators, clusters=self.clusters, strata=self.strata, level=self.level, unit=unit
        )

    def quantile(self, values: Floats, q: float, unit: str) -> Estimate:
        """Quantile of an amount, which is never below 0."""
        found = quantile_interval(values, q, clusters=self.clusters, strata=self.strata, level=self.level, unit=unit)
        return replace(found, low=max(0.0, found.low))


def _numbers(
    results: Sequence[TaskResult], level: float, latency: Callable[[TaskResult], float] | None
) -> dict[str, Estimate]:
    columns = _Columns(results, level)
    calls, success = columns.of(lambda r: r.tool_calls), columns.of(_succeeded)
    errors = columns.of(lambda r: r.tool_errors)
    numbers = {"success": columns.share_with_missing(lambda r: r.success)}
    if all(result.safe is not None for result in results):
        numbers["safe"] = columns.share_with_missing(lambda r: r.safe)
    numbers["missing_rate"] = columns.share(lambda r: isinstance(r.success, Missing))
    numbers |= _pass_k(results, level)
    if calls.any():
        numbers["tool_error_rate"] = columns.rate(errors, calls)
    numbers["hallucinated_tools"] = columns.mean(lambda r: r.hallucinated_tools, "calls/attempt")
    numbers["hallucinated_parameters"] = columns.mean(lambda r: r.hallucinated_parameters, "calls/attempt")
    numbers["tool_calls"] = columns.mean(lambda r: r.tool_calls, "calls/attempt")
    numbers["tool_calls_p95"] = columns.quantile(calls, 0.95, "calls/attempt")
    if (model_calls := columns.of(lambda r: r.model_calls)).any():
        numbers["realigned_share"] = columns.rate(columns.of(lambda r: r.realigned_calls), model_calls)
        numbers["forked_share"] = columns.rate(columns.of(lambda r: r.forked_calls), model_calls)
    numbers["tokens_in"] = columns.mean(lambda r: r.tokens_in, "tokens/attempt")
    numbers["tokens_out"] = columns.mean(lambda r: r.tokens_out, "tokens/attempt")
    if latency is not None:
        numbers["latency_seconds"] = columns.mean(latency, "s")
    numbers["cost_per_success_usd"] = columns.ratio(columns.of(lambda r: r.cost_usd), success, "USD")
    numbers["human_override_rate"] = columns.share(_overridden)
    override = columns.of(_overridden)
    numbers["reliability"] = reliability_interval(
        success, override, errors, calls, clusters=columns.clusters, strata=columns.strata, level=level
    )
    return numbers


def _succeeded(result: TaskResult) -> bool:
    return result.success is True


def _overridden(result: TaskResult) -> bool:
    return result.approvals_refused > 0


def _pass_k(results: Sequence[TaskResult], level: float) -> dict[str, Estimate]:
    """pass^k and pass@k over tasks for k from 2 to the number of trials that every task has."""
    trials: dict[str, list[TaskResult]] = {}
    for result in results:
        trials.setdefault(result.task_id, []).append(result)
    tasks = list(trials.values())
    strata, clusters = [each[0].family for each in tasks], [each[0].cluster for each in tasks]
    numbers = {}
    for name, of_task in (("pass_hat", pass_hat_k), ("pass_at", pass_at_k)):
        for k in range(2, min(len(each) for each in tasks) + 1):
            values = [of_task(len(each), sum(map(_succeeded, each)), k) for each in tasks]
            numbers[f"{name}_{k}"] = proportion_interval(values, clusters=clusters, strata=strata, level=level)
    return numbers

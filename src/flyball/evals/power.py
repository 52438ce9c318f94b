"""What a suite can show, said before it runs: the difference it would see, and the tasks that the wanted one needs.

The variance of a paired difference is taken from the last two versions that the suite judged, clusters and strata
included. Where it has judged none: two versions that succeed on half of the tasks, independently of each other, with
the tasks of a cluster counted as one and nothing expected of further trials. That is the worst case, so the real run
shows more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.stats.design import Design
from flyball.stats.power import detectable_difference, tasks_needed
from flyball.types import EvalRun, Task

WORST_CASE = 0.5
"""Variance of the difference of two independent versions at a success of one half."""
POWER = 0.8


@dataclass(frozen=True)
class Power:
    """`group` (a suite, or `suite/slice`) of `tasks` in `clusters` shows true differences from `detectable` on, at 95 %
    with a power of 80 %; to show `effect` it would have to have `needed` tasks. `basis` says where the variance is
    from."""

    group: str
    tasks: int
    clusters: int
    detectable: float
    effect: float
    needed: int
    basis: str

    @property
    def enough(self) -> bool:
        """Whether the group can show `effect`."""
        return self.tasks >= self.needed


def power_of(group: str, tasks: Collection[Task], effect: float, past: Sequence[EvalRun] = ()) -> Power:
    """The power of these tasks. `past`: two runs of the suite that they are in, by two versions; else worst case."""
    clusters = len({task.cluster for task in tasks})
    variance = _variance({task.task_id for task in tasks}, past) if len(past) == 2 else 0.0
    units, basis = len(tasks), "as the last two versions differed"
    if variance == 0.0:
        variance, units, basis = WORST_CASE, clusters, "worst case"
    detectable = detectable_difference(units, between=variance, power=POWER)
    needed = tasks_needed(effect, between=variance, power=POWER) * len(tasks) / units
    return Power(group, len(tasks), clusters, min(detectable, 1.0), effect, math.ceil(needed), basis)


def _variance(ids: Collection[str], past: Sequence[EvalRun]) -> float:
    """Variance of one task's difference, the design's effect in it; 0 where the versions did not differ."""
    before, after = (_success(run) for run in past)
    results = {result.task_id: result for result in past[0].results}
    common = [task_id for task_id in results if task_id in ids and task_id in after]
    if len(common) < 2:
        return 0.0
    difference = np.asarray([after[task_id] - before[task_id] for task_id in common])
    rows = [results[task_id] for task_id in common]
    design = Design.of(len(rows), [row.cluster for row in rows], [row.family for row in rows])
    return design.spread(design.residuals(difference) / design.n).variance * design.n


def _success(run: EvalRun) -> Mapping[str, float]:
    """Share of each task's trials that are known to have succeeded."""
    trials: dict[str, list[bool]] = {}
    for result in run.results:
        trials.setdefault(result.task_id, []).append(result.success is True)
    return {task_id: sum(each) / len(each) for task_id, each in trials.items()}

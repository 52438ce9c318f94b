"""Protected slices: named groups of tasks (a language, a family, a customer group) on which nobody may lose.

A mean can rise while a group falls. So each slice is compared by itself, at its own margin, and takes part in the
verdict of its suite:

    accept  only if the suite and every slice are accepted. No correction: a candidate that harms a slice by its margin
            passes them all with at most the chance of passing that one (intersection-union test).
    reject  as soon as one slice is shown to lose more than its margin. Among m slices one looks bad by luck m times as
            often, so this is shown at the level 1 - (1 - level) / m (Bonferroni).

A small slice proves little: it stays inconclusive, and says how many more of its tasks would settle it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flyball.errors import EvalError, nearest
from flyball.evals.compare import Verdict, compare
from flyball.types import Comparison, EvalRun, Task

OF_THE_TASK = ("family", "stage", "cluster")


@dataclass(frozen=True)
class Slice:
    """Tasks whose fields have one of the values that `where` allows, every field of it; `margin` is the loss borne.

    A field is family, stage, cluster, or a field of the task's public or hidden part.
    """

    name: str
    where: Mapping[str, tuple[Any, ...]]
    margin: float

    def holds(self, task: Task) -> bool:
        """Whether the task belongs to it."""
        return all(field_of(task, name) in allowed for name, allowed in self.where.items())


def field_of(task: Task, name: str) -> Any:
    """The value of a field by which slices are drawn; None where the task has no such field."""
    if name in OF_THE_TASK:
        return getattr(task, name)
    return task.public.get(name, task.hidden.get(name))


def members(slices: Iterable[Slice], tasks: Collection[Task]) -> dict[str, tuple[str, ...]]:
    """The ids of each slice's tasks, by its name; slices without a task here are left out."""
    found = {one.name: tuple(task.task_id for task in tasks if one.holds(task)) for one in slices}
    return {name: ids for name, ids in found.items() if ids}


def check_slices(slices: Iterable[Slice], tasks: Collection[Task]) -> None:
    """Raise EvalError for a slice that no task belongs to: it would protect nobody."""
    for one in slices:
        if members([one], tasks):
            continue
        for name, allowed in one.where.items():
            values = {str(value) for task in tasks if (value := field_of(task, name)) is not None}
            if not values & set(map(str, allowed)):
                near = nearest(str(allowed[0]), values) if values else "; no task of the suites has this field"
                raise EvalError(f"slice {one.name!r}: no task has {name} {' or '.join(map(str, allowed))}{near}")
        raise EvalError(f"slice {one.name!r}: no task of the suites meets all of {dict(one.where)}; loosen it")


def compare_slices(
    baseline: EvalRun, candidate: EvalRun, margins: Mapping[str, float], metric: str = "success", level: float = 0.95
) -> tuple[Comparison, ...]:
    """Each slice of the suite by itself, as `suite/slice`, with its verdict at its margin; see the module's head.

    Raises EvalError for a slice without a margin, and where the runs may not be compared.
    """
    names = list(dict.fromkeys((*baseline.slices, *candidate.slices)))
    if unknown := [name for name in names if name not in margins]:
        raise EvalError(f"suite {baseline.suite!r}: slice {unknown[0]!r} has no margin; say what loss is borne")
    shared = 1.0 - (1.0 - level) / max(len(names), 1)
    found = []
    for name in names:
        arms = _only(baseline, name), _only(candidate, name)
        own, strict = (compare(*arms, metric, margins[name], of) for of in (level, shared))
        if own.verdict == "reject" and strict.verdict != "reject":
            own = replace(own, verdict="inconclusive", more_needed=strict.more_needed)
        found.append(own)
    return tuple(found)


def decisive(slices: Mapping[str, Iterable[Comparison]]) -> list[Comparison]:
    """Of the slices of several suites, those that decide: each where the first suite has it, and wherever it is shown
    to lose. Elsewhere it may be too small to be accepted, and need not be."""
    met: set[str] = set()
    found = []
    for suite, of_suite in slices.items():
        for one in of_suite:
            name = one.suite.removeprefix(f"{suite}/")
            if name not in met or one.verdict == "reject":
                found.append(one)
            met.add(name)
    return found


def verdict_with(comparison: Comparison, slices: Iterable[Comparison]) -> Verdict:
    """The verdict of a suite with its slices: as bad as the worst of them."""
    verdicts = {comparison.verdict, *(one.verdict for one in slices)}
    return "reject" if "reject" in verdicts else "inconclusive" if "inconclusive" in verdicts else "accept"


def _only(run: EvalRun, name: str) -> EvalRun:
    ids = frozenset(run.slices.get(name, ()))
    of_slice = tuple(result for result in run.results if result.task_id in ids)
    return replace(run, suite=f"{run.suite}/{name}", results=of_slice)

"""Stored attempts judged again: attempts never change, judgements are added beside the old ones (invariant 11)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flyball.evals.run import rank_again_if_missing, task_result
from flyball.graders.grade import GraderSet
from flyball.store.store import Store
from flyball.types import GradedAttempt, Missing
from flyball.workflow.evaluation import PHASE
from flyball.workflow.inputs import Inputs, require_anchors
from flyball.workflow.workflow import Workflow

RL = "rl"
"""The phase whose attempts are groups."""


@dataclass(frozen=True)
class Change:
    """One attempt whose judgement is not what it was."""

    before: GradedAttempt
    after: GradedAttempt


@dataclass(frozen=True)
class Regraded:
    """`versions_before`: digests of the grader sets that had judged; `version_now`: of the one that judged again.

    `evals`: how many evaluations were written anew with these judgements, so that they may be compared again.
    `evals_mixed`: how many were not, because some of their attempts were last judged by other graders.
    """

    num_attempts: int
    versions_before: frozenset[str]
    version_now: str
    changes: tuple[Change, ...]
    evals: int = 0
    evals_mixed: int = 0


def regrade(
    workflow: Workflow, store: Store, run_id: str, phase: str | None = None, *, failed: bool = False
) -> Regraded:
    """Judge the attempts of a run again, and keep the new judgements; `failed`: only those without a grade.

    Evaluations of the run whose attempts are then all judged by these graders are written anew: scores of different
    versions are never compared, and this is how they come to be of the same one. Raises StoreError and
    ConfigError, and GraderError when the graders judge an anchor otherwise than people settled it.
    """
    store.require_phase(run_id, phase)
    inputs = Inputs(workflow)
    graders = inputs.graders
    changes: list[Change] = []
    versions: set[str] = set()
    count = 0

    async def judge_all() -> None:
        nonlocal count
        await require_anchors(inputs)
        for group in groups_of(store, run_id, phase, graders.ranks):
            if failed and not any(map(ungraded, group)):
                continue
            for before, after in zip(group, await judge_again(graders, group), strict=True):
                store.add_scores(run_id, after)
                count += 1
                versions.add(before.outcome.grader_version)
                if _judgement(before) != _judgement(after):
                    changes.append(Change(before, after))

    asyncio.run(judge_all())
    renewed, mixed = _renew_evals(store, run_id, graders.version) if phase in (None, PHASE) else (0, 0)
    return Regraded(count, frozenset(versions), graders.version, tuple(changes), renewed, mixed)


async def judge_again(graders: GraderSet, group: Sequence[GradedAttempt]) -> list[GradedAttempt]:
    """Judge attempts as they were in the first place: one alone, a group beside each other."""
    if len(group) == 1:
        return [await graders.grade(one.attempt) for one in group]
    waiting = graders.waiting()
    return await rank_again_if_missing(graders, [await waiting.grade(one.attempt) for one in group])


def groups_of(
    store: Store, run_id: str, phase: str | None, ranks: bool, version: str | None = None
) -> Iterator[list[GradedAttempt]]:
    """Yield what is judged together: groups of RL where the reward `ranks`, else every attempt by itself.

    Each with its latest judgement, or its latest by the graders of a `version`.
    """
    grouped: set[str] = set()
    for step in store.steps(run_id, RL) if ranks and phase in (None, RL) else ():
        groups: dict[tuple[str, int], list[GradedAttempt]] = defaultdict(list)
        times: Counter[tuple[str, int]] = Counter()  # a step may have a task twice
        for one in store.attempts(run_id, RL, step, grader_version=version):
            key = one.attempt.task.task_id, one.attempt.group_index
            groups[key[0], times[key]].append(one)
            times[key] += 1
            grouped.add(one.attempt.attempt_id)
        yield from groups.values()
    for one in store.attempts(run_id, phase, grader_version=version):
        if one.attempt.attempt_id not in grouped:
            yield [one]


def ungraded(graded: GradedAttempt) -> bool:
    """Whether anything that should have a grade has none: outcome, safety, reward or a score."""
    judged = (graded.outcome.success, graded.outcome.safe, graded.reward)
    return any(isinstance(value, Missing) for value in judged) or any(s.missing for s in graded.scores.values())


def _renew_evals(store: Store, run_id: str, version: str) -> tuple[int, int]:
    """Write each evaluation of the run anew from the latest judgements; how many, and how many could not be."""
    latest = {(run.version_id, run.suite): run for run in store.evals(run_id=run_id)}
    if not latest:
        return 0, 0
    judged = {one.attempt.attempt_id: one for one in store.attempts(run_id, PHASE)}
    renewed = mixed = 0
    for run in latest.values():
        now = [judged[result.attempt_id] for result in run.results if result.attempt_id in judged]
        if len(now) != len(run.results) or any(one.outcome.grader_version != version for one in now):
            mixed += 1
            continue
        results = tuple(task_result(one) for one in now)
        if (results, version) != (run.results, run.grader_version):
            store.put_eval(replace(run, grader_version=version, results=results))
            renewed += 1
    return renewed, mixed


def _judgement(graded: GradedAttempt) -> tuple[object, ...]:
    """What counts as the judgement: not which version of a grader said it."""
    scores = {name: score.value for name, score in graded.scores.items()}
    return graded.outcome.success, graded.outcome.safe, graded.reward, scores

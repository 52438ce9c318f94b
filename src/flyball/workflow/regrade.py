"""Stored attempts judged again: attempts never change, judgements are added beside the old ones (invariant 11)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from flyball.store.store import Store
from flyball.types import GradedAttempt
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import Workflow


@dataclass(frozen=True)
class Change:
    """One attempt whose judgement is not what it was."""

    before: GradedAttempt
    after: GradedAttempt


@dataclass(frozen=True)
class Regraded:
    """`versions_before`: digests of the grader sets that had judged; `version_now`: of the one that judged again."""

    num_attempts: int
    versions_before: frozenset[str]
    version_now: str
    changes: tuple[Change, ...]


def regrade(workflow: Workflow, store: Store, run_id: str, phase: str | None = None) -> Regraded:
    """Judge every attempt of a run again, and keep the new judgements. Raises StoreError and ConfigError."""
    graders = Inputs(workflow).graders
    changes: list[Change] = []
    versions: set[str] = set()
    count = 0

    async def judge_all() -> None:
        nonlocal count
        for before in store.attempts(run_id, phase):
            after = await graders.grade(before.attempt)
            store.add_scores(run_id, after)
            count += 1
            versions.add(before.outcome.grader_version)
            if _judgement(before) != _judgement(after):
                changes.append(Change(before, after))

    asyncio.run(judge_all())
    return Regraded(count, frozenset(versions), graders.version, tuple(changes))


def _judgement(graded: GradedAttempt) -> tuple[object, ...]:
    """What counts as the judgement: not which version of a grader said it."""
    scores = {name: score.value for name, score in graded.scores.items()}
    return graded.outcome.success, graded.outcome.safe, graded.reward, scores

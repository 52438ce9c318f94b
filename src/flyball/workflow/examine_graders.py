"""A workflow's graders attacked and held against people: what `flyball doctor grader` calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from flyball.errors import ConfigError, nearest
from flyball.evals.grader_checks import GraderExamination, check_anchors, examine_graders
from flyball.evals.label_checks import Judged, check_grader, check_raters, compare_graders, settled
from flyball.evals.readiness import Finding
from flyball.graders.anchors import missed_anchors
from flyball.graders.grade import GraderSet
from flyball.graders.labels import Label, load_labels
from flyball.graders.steps import written
from flyball.store.store import Store
from flyball.types import Attempt, GradedAttempt
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import Workflow


def attack_graders(workflow: Workflow, num_tasks: int, tell: Callable[[Finding], None]) -> list[Finding]:
    """Anchors, gold and the battery of cheats; `tell` hears of each at once.

    Raises the error of the boundary that is wrong.
    """
    inputs = Inputs(workflow)
    inputs.check()
    how = GraderExamination(
        world=inputs.world,
        graders=inputs.graders,
        oracle=workflow.oracle,
        hooks=inputs.hooks,
        num_tasks=num_tasks,
        seed=workflow.settings.training.seed,
    )

    async def examine() -> list[Finding]:
        findings = []
        if inputs.anchors:
            missed = await missed_anchors(inputs.graders, inputs.anchors)
            findings.append(check_anchors(missed, len(inputs.anchors)))
            tell(findings[0])
        return findings + await examine_graders(inputs.tasks, how, tell)

    return asyncio.run(examine())


def compare_with_people(
    workflow: Workflow, labels: Path, store: Store | None, run_id: str | None, compare: Sequence[str] = ()
) -> list[Finding]:
    """Raters against each other, then every labelled grader against what they settled on.

    `compare` names graders that all judge the one rubric of the labels; they are held against the first of them.
    `store` and `run_id` say where labelled attempts lie; None where the file carries them. Raises DatasetError and
    ConfigError.
    """

    def find(attempt_id: str) -> Attempt:
        assert store is not None and run_id is not None
        return store.attempt(run_id, attempt_id).attempt

    said = load_labels(labels, find if store is not None and run_id is not None else None)
    graders = Inputs(workflow).graders
    known = set(graders.versions) - {"reward"}
    rubrics = list(dict.fromkeys(label.rubric for label in said))
    if compare and len(rubrics) > 1:
        raise ConfigError(f"{labels}: graders are compared by one rubric, and this file has {', '.join(rubrics)}")
    for name in compare or rubrics:
        if name not in known:
            where = "--compare" if compare else str(labels)
            raise ConfigError(f"{where}: no grader judges {name!r}{nearest(name, known)}")
    told = _beside_each_other(graders, said, compare) if compare else _against_people(graders, said)
    return [*check_raters(said), *asyncio.run(told)]


async def _beside_each_other(graders: GraderSet, said: Sequence[Label], compare: Sequence[str]) -> list[Finding]:
    graded = await _graded(graders, said)
    decided, _undecided = settled(said, said[0].rubric)
    return compare_graders(
        {
            name: [_judged(graded[unit], name, people, label.at) for unit, (label, people) in decided.items()]
            for name in compare
        }
    )


async def _graded(graders: GraderSet, said: Sequence[Label]) -> dict[str, GradedAttempt]:
    attempts = {label.attempt.attempt_id: label.attempt for label in said}
    return {attempt_id: await graders.grade(attempt) for attempt_id, attempt in attempts.items()}


async def _against_people(graders: GraderSet, said: Sequence[Label]) -> list[Finding]:
    graded = await _graded(graders, said)
    findings: list[Finding] = []
    for rubric in dict.fromkeys(label.rubric for label in said):
        decided, undecided = settled(said, rubric)
        judged = [_judged(graded[unit], rubric, people, label.at) for unit, (label, people) in decided.items()]
        findings += check_grader(rubric, judged, undecided)
    return findings


def _judged(graded: GradedAttempt, rubric: str, people: float, at: str) -> Judged:
    attempt = graded.attempt
    score = graded.scores[rubric]
    return Judged(attempt.attempt_id, attempt.task.cluster, people, score, len(written(attempt)), at)

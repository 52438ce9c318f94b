"""A workflow's graders attacked and held against people: what `flyball doctor grader` calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from flyball.errors import ConfigError, nearest
from flyball.evals.grader_checks import GraderExamination, check_anchors, examine_graders
from flyball.evals.label_checks import Judged, check_grader, check_raters, settled
from flyball.evals.readiness import Finding
from flyball.graders.anchors import missed_anchors
from flyball.graders.grade import GraderSet
from flyball.graders.labels import Label, load_labels
from flyball.graders.steps import written
from flyball.store.store import Store
from flyball.types import Attempt, GradedAttempt
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import Workflow


def attack_graders(workflow: Workflow, num_tasks: int) -> list[Finding]:
    """Anchors, gold and the battery of cheats. Raises the error of the boundary that is wrong."""
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
        return findings + await examine_graders(inputs.tasks, how)

    return asyncio.run(examine())


def compare_with_people(workflow: Workflow, labels: Path, store: Store | None, run_id: str | None) -> list[Finding]:
    """Raters against each other, then every labelled grader against what they settled on.

    `store` and `run_id` say where labelled attempts lie; None where the file carries them. Raises DatasetError and
    ConfigError.
    """

    def find(attempt_id: str) -> Attempt:
        assert store is not None and run_id is not None
        return store.attempt(run_id, attempt_id).attempt

    said = load_labels(labels, find if store is not None and run_id is not None else None)
    graders = Inputs(workflow).graders
    known = set(graders.versions) - {"reward"}
    for rubric in dict.fromkeys(label.rubric for label in said):
        if rubric not in known:
            raise ConfigError(f"{labels}: no grader judges {rubric!r}{nearest(rubric, known)}")
    return [*check_raters(said), *asyncio.run(_against_people(graders, said))]


async def _against_people(graders: GraderSet, said: Sequence[Label]) -> list[Finding]:
    attempts = {label.attempt.attempt_id: label.attempt for label in said}
    graded = {attempt_id: await graders.grade(attempt) for attempt_id, attempt in attempts.items()}
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

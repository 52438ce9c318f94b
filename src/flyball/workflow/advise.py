"""A workflow's data turned into advice on its reward: what `flyball doctor reward` calls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from flyball.evals.readiness import Finding
from flyball.evals.reward_advice import RewardFacts, advise, solved_share
from flyball.graders.labels import load_labels
from flyball.graders.spec_grader import Decision, SpecGrader
from flyball.store.store import Store
from flyball.types import Attempt, GradedAttempt
from flyball.workflow.inputs import TRAIN, Inputs
from flyball.workflow.workflow import Workflow

JUDGES = ("score_model", "label_model", "tone", "group_judge", "hack_judge", "reward_model")


def advise_on_reward(
    workflow: Workflow, store: Store | None, run_id: str | None, labels: Path | None, budget_usd: float
) -> list[Finding]:
    """Return the advice. `store` and `run_id` say where attempts lie, None = none. Raises DatasetError."""
    inputs = Inputs(workflow)
    attempts: list[GradedAttempt] = []
    if store is not None and run_id is not None:
        attempts = list(store.attempts(run_id))
    facts = RewardFacts(
        tasks=inputs.splits.get(TRAIN, inputs.tasks),
        attempts=attempts,
        judged=asks_a_model(inputs.graders.success),
        shaped=inputs.graders.reward is not None,
        labels=_judged_by_two(labels, store, run_id) if labels is not None else 0,
        budget_usd=budget_usd,
    )
    return [*([solved_share(attempts)] if attempts else []), *advise(facts)]


def asks_a_model(grader: Any) -> bool:
    """Whether a model has a say in what a grader answers."""
    if isinstance(grader, Decision):
        grader = grader.grader
    if not isinstance(grader, SpecGrader):
        return False
    return grader.spec.type in JUDGES or any(asks_a_model(part) for part in grader.parts)


def _judged_by_two(path: Path, store: Store | None, run_id: str | None) -> int:
    def find(attempt_id: str) -> Attempt:
        assert store is not None and run_id is not None
        return store.attempt(run_id, attempt_id).attempt

    labels = load_labels(path, find if run_id is not None else None)
    raters = Counter((label.attempt.attempt_id, label.rubric) for label in labels)
    return len({attempt_id for (attempt_id, _), count in raters.items() if count >= 2})

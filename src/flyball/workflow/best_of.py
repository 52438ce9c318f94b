"""Scores to choose among stored attempts by: the reward, a score of the workflow, or a reward model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flyball.errors import ConfigError, nearest
from flyball.evals.best_of import BestOfTable, best_of_attempts
from flyball.graders.make import as_grader
from flyball.store.store import Store
from flyball.types import GradedAttempt, Missing
from flyball.workflow.record import CANDIDATE, finished_stages

REWARD = "reward"


def best_of(store: Store, run_id: str, phase: str, by: str) -> BestOfTable:
    """Choose among the attempts that a run made for `phase`, by what `by` names.

    That is `reward`, a score that the attempts carry, a reward model in the registry (its newest version), or the
    folder of one. Of an evaluation of several versions the attempts of the candidate are taken: nobody chooses among
    those of different policies. Raises ConfigError for anything else, EvalError when there is nothing to choose among.
    """
    made = _of_one_policy(list(store.attempts(run_id, phase)), store, run_id)
    if by == REWARD:
        return best_of_attempts(made, lambda one: one.reward)
    scored = {name for one in made for name in one.scores}
    if by in scored:
        return best_of_attempts([one for one in made if by in one.scores], lambda one: one.scores[by].value)
    versions = store.versions(by)
    folder = Path(versions[-1].path) if versions else Path(by)
    if not folder.is_dir():
        known = [REWARD, *sorted(scored), *sorted({version.name for version in store.versions()})]
        raise ConfigError(f"--by {by}: no score of these attempts, reward model or folder{nearest(by, known)}")
    values = asyncio.run(_by_model(made, folder))
    return best_of_attempts(made, lambda one: values[one.attempt.attempt_id])


def _of_one_policy(made: list[GradedAttempt], store: Store, run_id: str) -> list[GradedAttempt]:
    policies = {one.attempt.versions.get("policy") for one in made}
    if len(policies) < 2:
        return made
    evaluated = finished_stages(store, run_id).get("evaluate")
    if evaluated is None:
        raise ConfigError(f"run {run_id} evaluated {len(policies)} policies and is not finished; go on with --resume")
    candidate = evaluated["arms"][CANDIDATE]
    return [one for one in made if one.attempt.versions.get("policy") == candidate]


async def _by_model(made: list[GradedAttempt], folder: Path) -> dict[str, float | Missing]:
    grader = as_grader({"type": "reward_model", "path": str(folder)}, "best_of")
    scores = {one.attempt.attempt_id: await grader.grade(one.attempt, one.attempt.task.hidden) for one in made}
    return {attempt_id: score.value for attempt_id, score in scores.items()}

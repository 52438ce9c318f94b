"""Scores from elsewhere: one JSON object a line, made by any evaluation, compared as our own are. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from flyball.errors import EvalError, Fault, nearest, unreadable
from flyball.evals.slices import Slice, check_slices, members
from flyball.types import EvalRun, Missing, Task, TaskResult


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, strict=True))
class ImportedScore:
    """One trial of one task. `success` null: there is no outcome, and it counts against the candidate. `cluster` groups
    tasks that are alike (the same customer, the same repository), `family` is the stratum, `groups` are what slices are
    drawn by. `conditions` names all but the policy that the score depends on. Durations in seconds."""

    task_id: Annotated[str, Field(min_length=1)]
    success: bool | None
    trial: NonNegativeInt = 0
    family: str = ""
    cluster: str = ""
    safe: bool | None = None
    cost_usd: NonNegativeFloat = 0.0
    seconds: NonNegativeFloat = 0.0
    tokens_in: NonNegativeInt = 0
    tokens_out: NonNegativeInt = 0
    tool_calls: NonNegativeInt = 0
    tool_errors: NonNegativeInt = 0
    grader: str = "imported"
    groups: dict[str, str] = Field(default_factory=dict)
    conditions: dict[str, str] = Field(default_factory=dict)


_SCORE = TypeAdapter(ImportedScore)


def read_scores(path: Path, suite: str, version_id: str = "", slices: Sequence[Slice] = ()) -> EvalRun:
    """The scores of one version on one suite; without `version_id` it is called by the file's name.

    The suite's digest is that of its task ids, so files over other tasks are not compared. Raises EvalError naming the
    line and the field, for a trial that comes twice, mixed graders or conditions, tasks without all their trials, and
    a slice that none of them belongs to.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path} cannot be read: {unreadable(error)}") from error
    found: dict[tuple[str, int], ImportedScore] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            score = _SCORE.validate_json(line)
        except ValidationError as error:
            raise EvalError(f"{path}:{number}: {_first(error)}") from error
        if (key := (score.task_id, score.trial)) in found:
            raise EvalError(f"{path}:{number}: trial {score.trial} of task {score.task_id!r} is there already")
        found[key] = score
    return _run(path, suite, version_id or path.stem, list(found.values()), slices)


def _run(path: Path, suite: str, version_id: str, scores: list[ImportedScore], slices: Sequence[Slice]) -> EvalRun:
    if not scores:
        raise EvalError(f"{path} holds no score; write one JSON object a line with task_id and success")
    if len(graders := sorted({score.grader for score in scores})) > 1:
        raise EvalError(f"{path} mixes graders {', '.join(graders)}; one file is graded by one grader")
    if any(score.conditions != scores[0].conditions for score in scores):
        raise EvalError(f"{path} mixes conditions; one file holds the scores of one evaluation")
    tasks = sorted({score.task_id for score in scores})
    trials = max(score.trial for score in scores) + 1
    if len(scores) != trials * len(tasks):
        raise EvalError(
            f"{path}: {len(tasks)} tasks by {trials} trials are {trials * len(tasks)} lines, there are {len(scores)}; "
            "a trial without an outcome is a line with success null"
        )
    digest = hashlib.sha256("\n".join(tasks).encode()).hexdigest()
    results = tuple(_result(score, suite) for score in scores)
    grouped = [Task(one.task_id, one.groups, family=one.family, cluster=one.cluster) for one in scores]
    check_slices(slices, grouped)
    return EvalRun(
        f"imported {path.name}",
        version_id,
        suite,
        digest,
        graders[0],
        trials,
        results,
        slices={name: tuple(dict.fromkeys(ids)) for name, ids in members(slices, grouped).items()},
        conditions=scores[0].conditions,
    )


def _result(score: ImportedScore, suite: str) -> TaskResult:
    lost = Missing("no outcome in the imported file", Fault.INFRASTRUCTURE)
    return TaskResult(
        task_id=score.task_id,
        trial=score.trial,
        split=suite,
        family=score.family,
        stage="",
        cluster=score.cluster or score.task_id,
        attempt_id="",
        success=lost if score.success is None else score.success,
        safe=score.safe,
        tool_calls=score.tool_calls,
        tool_errors=score.tool_errors,
        hallucinated_tools=0,
        hallucinated_parameters=0,
        tokens_in=score.tokens_in,
        tokens_out=score.tokens_out,
        tool_seconds=score.seconds,
        wall_seconds=score.seconds,
        cost_usd=score.cost_usd,
        stop="answered",
    )


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown field {place!r}{nearest(place, [field.name for field in fields(ImportedScore)])}"
    return f"{place or 'the line'}: {problem['msg']}"

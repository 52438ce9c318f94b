"""Runs a policy version over a suite: attempts through the one path, graded, reduced to one result per task and trial.

Seeds depend on task and trial only, so two versions evaluated with the same `seed` meet the same draws and a resumed
or reordered run gives the same results. A grader that failed is asked again about the same attempt before the outcome
is Missing (invariant 2); `run_attempt` does the same for infrastructure.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from flyball.agent.runner import AgentRunner
from flyball.engine.protocol import Engine, SamplingParams
from flyball.errors import EvalError, Fault
from flyball.evals.suite import Suite
from flyball.graders.grade import GraderSet
from flyball.models.chat import ChatFormat
from flyball.rng import derive
from flyball.rollout.attempt import run_attempt
from flyball.rollout.prices import Prices
from flyball.tasks.world import WorldSpec
from flyball.tools.call import hallucinated_parameter
from flyball.types import Attempt, EvalRun, GradedAttempt, Missing, Task, TaskResult

NUM_GRADINGS = 3
_NOT_OFFERED = ("unknown_tool", "not_allowed")


async def evaluate(
    suite: Suite,
    *,
    version_id: str,
    world: WorldSpec,
    runner: AgentRunner,
    engine: Engine,
    chat: ChatFormat,
    sampling: SamplingParams,
    graders: GraderSet,
    num_trials: int = 1,
    seed: int = 0,
    concurrency: int = 16,
    on_attempt: Callable[[GradedAttempt], None] | None = None,
    prices: Prices | None = None,
    versions: Mapping[str, str] | None = None,
) -> EvalRun:
    """Attempt every task `num_trials` times. `on_attempt` sees each graded attempt as it finishes, for the store.

    Results are in the order of the suite, trials of a task together. Raises EvalError for settings that cannot be
    honoured; what goes wrong inside an attempt is recorded in its result.
    """
    if num_trials < 1 or concurrency < 1:
        raise EvalError(f"num_trials {num_trials} and concurrency {concurrency} must both be at least 1")
    results: dict[tuple[str, int], TaskResult] = {}
    jobs = iter([(task, trial) for task in suite.tasks for trial in range(num_trials)])
    stamps = {"policy": version_id, "graders": graders.version, "suite": suite.digest, **(versions or {})}

    async def attempt_one(task: Task, trial: int) -> None:
        attempt = await run_attempt(
            task,
            world=world,
            runner=runner,
            engine=engine,
            chat=chat,
            sampling=sampling,
            seed=derive(seed, task.task_id, trial),
            group_index=trial,
            versions=stamps,
            prices=prices,
        )
        graded = await grade_again_if_missing(graders, attempt)
        if on_attempt is not None:
            on_attempt(graded)
        results[task.task_id, trial] = task_result(graded)

    async def work() -> None:
        for task, trial in jobs:  # shared: each worker takes the next one
            await attempt_one(task, trial)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(suite.tasks) * num_trials)):
                workers.create_task(work())
    except ExceptionGroup as failures:  # the first failure stopped the others: it is the one to tell
        raise failures.exceptions[0] from None
    ordered = tuple(results[task.task_id, trial] for task in suite.tasks for trial in range(num_trials))
    run_id = _run_id(version_id, suite.digest, graders.version, num_trials, seed, sampling)
    return EvalRun(run_id, version_id, suite.name, suite.digest, graders.version, num_trials, ordered)


async def grade_again_if_missing(graders: GraderSet, attempt: Attempt) -> GradedAttempt:
    """Grade, asking again up to `NUM_GRADINGS` times in all while the fault lies with a grader."""
    graded = await graders.grade(attempt)
    for _ in range(NUM_GRADINGS - 1):
        if not _grader_failed(graded):
            break
        graded = await graders.grade(attempt)
    return graded


def task_result(graded: GradedAttempt) -> TaskResult:
    """Reduce a graded attempt, fresh or from the store, to what summaries and comparisons need.

    A hallucinated tool is a call to a name the task does not offer; a hallucinated parameter is a call refused for an
    argument that the tool's schema does not have. Both are read from the typed results of the calls.
    """
    attempt, outcome = graded.attempt, graded.outcome
    task, usage, tool_results = attempt.task, attempt.usage, attempt.tool_results
    return TaskResult(
        task_id=task.task_id,
        trial=attempt.group_index,
        split=task.split,
        family=task.family,
        stage=task.stage,
        cluster=task.cluster,
        attempt_id=attempt.attempt_id,
        success=outcome.success,
        safe=outcome.safe,
        tool_calls=attempt.num_tool_calls,
        tool_errors=attempt.num_tool_errors,
        hallucinated_tools=sum(result.problem in _NOT_OFFERED for result in tool_results),
        hallucinated_parameters=sum(hallucinated_parameter(result) for result in tool_results),
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        tool_seconds=usage.tool_seconds,
        wall_seconds=usage.wall_seconds,
        cost_usd=attempt.cost_usd,
        stop=attempt.stop.value,
        scores={
            name: None if isinstance(score.value, Missing) else score.value for name, score in graded.scores.items()
        },
    )


def _grader_failed(graded: GradedAttempt) -> bool:
    judged = (graded.outcome.success, graded.outcome.safe)
    return any(isinstance(value, Missing) and value.fault is Fault.GRADER for value in judged)


def _run_id(*parts: Any) -> str:
    """The same evaluation has the same id, wherever it is run."""
    return "eval-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

"""Runs a policy version over a suite: attempts through the one path, graded, reduced to one result per task and trial.

Seeds depend on task and trial only, so two versions evaluated with the same `seed` meet the same draws and a resumed
or reordered run gives the same results. A grader that failed is asked again about the same attempt before the outcome
is Missing (invariant 2); `run_attempt` does the same for infrastructure.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flyball.agent.runner import AgentRunner
from flyball.capture.best_of import BestOf
from flyball.engine.protocol import Engine, SamplingParams
from flyball.errors import EvalError, Fault
from flyball.evals.slices import Slice, members
from flyball.evals.suite import Suite
from flyball.graders.grade import GraderSet
from flyball.models.chat import ChatFormat
from flyball.rng import derive
from flyball.rollout.activity import Board
from flyball.rollout.attempt import run_attempt
from flyball.rollout.prices import Prices
from flyball.tasks.world import WorldSpec
from flyball.tools.call import hallucinated_parameter
from flyball.types import Attempt, EvalRun, GradedAttempt, Missing, Task, TaskResult

T = TypeVar("T")
K = TypeVar("K")
NUM_GRADINGS = 3
_NOT_OFFERED = ("unknown_tool", "not_allowed")


@dataclass(frozen=True)
class Arm:
    """Who attempts: an agent with a policy behind its door, in a world, judged by graders."""

    world: WorldSpec
    runner: AgentRunner
    engine: Engine
    chat: ChatFormat
    sampling: SamplingParams
    graders: GraderSet
    prices: Prices | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    board: Board = field(default_factory=Board)
    best_of: BestOf | None = None

    def conditions(self, seed: int) -> dict[str, str]:
        """All but the policy that a result depends on, by name: versions may only be compared where they are equal."""
        return {
            "agent": self.runner.name,
            "world": self.world.version,
            "sampling": str(self.sampling),
            "best_of": f"{self.best_of.n} by {self.best_of.name}" if self.best_of else "1",
            "seed": str(seed),
            "prices": str(self.prices),
        }

    async def attempt(self, task: Task, trial: int, seed: int) -> GradedAttempt:
        """Attempt and grade once. The seed of the draw depends on `seed`, task and trial, on nothing else."""
        return await self.draw(task, trial, derive(seed, task.task_id, trial))

    async def draw(self, task: Task, trial: int, seed: int) -> GradedAttempt:
        """Attempt with exactly this seed and grade. What is waited for is on the arm's `board`."""
        attempt = await run_attempt(
            task,
            world=self.world,
            runner=self.runner,
            engine=self.engine,
            chat=self.chat,
            sampling=self.sampling,
            seed=seed,
            group_index=trial,
            versions={"graders": self.graders.version, **self.versions},
            prices=self.prices,
            board=self.board,
            best_of=self.best_of,
        )
        with self.board.doing(attempt.attempt_id, task.task_id, "grader", "grade"):
            return await grade_again_if_missing(self.graders, attempt)


@dataclass(frozen=True)
class Turn:
    """An attempt as it began: whose, and at what. A list of them is the record of the order."""

    version_id: str
    task_id: str
    trial: int


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
    board: Board | None = None,
) -> EvalRun:
    """Attempt every task `num_trials` times. `on_attempt` sees each graded attempt as it finishes, for the store. What
    they wait for is on the `board`.

    Results are in the order of the suite, trials of a task together. Raises EvalError for settings that cannot be
    honoured; what goes wrong inside an attempt is recorded in its result.
    """
    arm = Arm(world, runner, engine, chat, sampling, graders, prices, versions or {}, board or Board())
    (run,), _ = await evaluate_in_turn(
        suite,
        {version_id: arm},
        num_trials=num_trials,
        seed=seed,
        concurrency=concurrency,
        on_attempt=on_attempt,
    )
    return run


async def evaluate_in_turn(
    suite: Suite,
    arms: Mapping[str, Arm],
    *,
    num_trials: int = 1,
    seed: int = 0,
    concurrency: int = 16,
    on_attempt: Callable[[GradedAttempt], None] | None = None,
    slices: Sequence[Slice] = (),
) -> tuple[list[EvalRun], list[Turn]]:
    """Attempt every task by every version, one after the other, before the next task: whatever drifts meanwhile (the
    machine, the tools, a judge) meets all of them alike. Who comes first is drawn for each task and trial.

    `arms` by version. Returns one run for each, in their order, and the order in which the attempts began. Raises
    EvalError as `evaluate`.
    """
    _check_numbers(num_trials, concurrency)
    stamped = {
        version: replace(arm, versions={"policy": version, "suite": suite.digest, **arm.versions})
        for version, arm in arms.items()
    }
    keys = [
        (version, task, trial)
        for task in suite.tasks
        for trial in range(num_trials)
        for version in _shuffled(list(arms), derive(seed, "turn", task.task_id, trial))
    ]
    order: list[Turn] = []
    results: dict[str, dict[tuple[str, int], TaskResult]] = {version: {} for version in arms}

    async def attempt(key: tuple[str, Task, int]) -> None:
        version, task, trial = key
        order.append(Turn(version, task.task_id, trial))
        graded = await stamped[version].attempt(task, trial, seed)
        if on_attempt is not None:
            on_attempt(graded)
        results[version][task.task_id, trial] = task_result(graded)

    await _at_most(concurrency, keys, attempt)
    runs = [
        EvalRun(
            _run_id(version, suite.digest, arm.graders.version, num_trials, seed, arm.sampling),
            version,
            suite.name,
            suite.digest,
            arm.graders.version,
            num_trials,
            tuple(results[version][task.task_id, trial] for task in suite.tasks for trial in range(num_trials)),
            members(slices, suite.tasks),
            arm.conditions(seed),
        )
        for version, arm in stamped.items()
    ]
    return runs, order


async def attempt_all(
    arm: Arm,
    tasks: Sequence[Task],
    *,
    num_trials: int,
    seed: int,
    concurrency: int,
    reduce: Callable[[GradedAttempt], T],
) -> list[T]:
    """Attempt each task `num_trials` times, `concurrency` at a time; what `reduce` keeps of each, in task order."""
    _check_numbers(num_trials, concurrency)
    keys = [(i, trial) for i in range(len(tasks)) for trial in range(num_trials)]
    kept: dict[tuple[int, int], T] = {}

    async def attempt(key: tuple[int, int]) -> None:
        kept[key] = reduce(await arm.attempt(tasks[key[0]], key[1], seed))

    await _at_most(concurrency, keys, attempt)
    return [kept[key] for key in keys]


def require_some(found: Sequence[object], what: str) -> None:
    """Raise EvalError when attempts were made and each one's outcome (or reward) is Missing: nothing was measured.

    A policy's failure is an outcome, so this is the fault of the agent's program, the world, a grader or the engine.
    """
    missing = [one for one in found if isinstance(one, Missing)]
    if missing and len(missing) == len(found):
        cause, times = Counter(one.cause.partition(", on attempt ")[0] for one in missing).most_common(1)[0]
        raise EvalError(
            f"none of the {len(found)} {what} has an outcome, so there is nothing to learn or to compare; {times} "
            f"times: {cause}; mend it, then start anew or go on with --resume"
        )


async def _at_most(concurrency: int, keys: Sequence[K], do: Callable[[K], Awaitable[None]]) -> None:
    """Do each key, in their order, `concurrency` at a time. The first failure stops the others and is raised."""
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:  # shared: each worker takes the next one
            await do(key)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(keys))):
                workers.create_task(work())
    except ExceptionGroup as failures:  # the first failure stopped the others: it is the one to tell
        raise failures.exceptions[0] from None


def _check_numbers(num_trials: int, concurrency: int) -> None:
    if num_trials < 1 or concurrency < 1:
        raise EvalError(f"num_trials {num_trials} and concurrency {concurrency} must both be at least 1")


def _shuffled(versions: list[str], seed: int) -> list[str]:
    random.Random(seed).shuffle(versions)
    return versions


async def grade_again_if_missing(graders: GraderSet, attempt: Attempt) -> GradedAttempt:
    """Grade, asking again up to `NUM_GRADINGS` times in all while the fault lies with a grader."""
    graded = await graders.grade(attempt)
    for _ in range(NUM_GRADINGS - 1):
        if not _grader_failed(graded):
            break
        graded = await graders.grade(attempt)
    return graded


async def rank_again_if_missing(graders: GraderSet, group: Sequence[GradedAttempt]) -> list[GradedAttempt]:
    """Rank a group, asking again up to `NUM_GRADINGS` times in all while an attempt that was judged has no reward."""
    ranked = await graders.rank(group)
    for _ in range(NUM_GRADINGS - 1):
        if all(not isinstance(g.reward, Missing) or g.attempt.stop.fault is Fault.INFRASTRUCTURE for g in ranked):
            break
        ranked = await graders.rank(group)
    return ranked


def task_result(graded: GradedAttempt) -> TaskResult:
    """Reduce a graded attempt, fresh or from the store, to what summaries and comparisons need.

    `tool_calls` counts every call that was tried, the unreadable ones (errors without a name) included. A hallucinated
    tool is a call to a name the task does not offer, a hallucinated parameter is a call refused for an argument that
    the tool's schema does not have. Both are read from the typed results of the calls.
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
        tool_calls=sum(max(len(call.tool_calls), len(call.tool_results)) for call in attempt.trajectory.calls),
        tool_errors=attempt.num_tool_errors,
        approvals_refused=sum(result.approval in ("deny", "expire") for result in tool_results),
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
        model_calls=len(attempt.drifts),
        realigned_calls=attempt.drifts.count("realigned"),
        forked_calls=attempt.drifts.count("forked"),
    )


def _grader_failed(graded: GradedAttempt) -> bool:
    judged = (graded.outcome.success, graded.outcome.safe)
    return any(isinstance(value, Missing) and value.fault is Fault.GRADER for value in judged)


def _run_id(*parts: Any) -> str:
    """The same evaluation has the same id, wherever it is run."""
    return "eval-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

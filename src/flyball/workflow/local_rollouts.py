"""Rollouts for a learner in this process: engines that follow it, in turn with its updates or ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from flyball.engine.protocol import Engine
from flyball.evals.run import Arm, attempt_all, rank_again_if_missing, require_some
from flyball.rl.algorithms import Algorithm
from flyball.rl.samples import GREEDY, teaches
from flyball.rl_settings import CurriculumSettings
from flyball.rollout.activity import Board
from flyball.tasks.curriculum import CurriculumPlan
from flyball.train.learner import LocalLearner
from flyball.train.rollouts import Ahead, Batches, CurriculumTasks, InTurn, Lead, Ledger, Rank, Rollouts, step_seed
from flyball.train.selective import Selection, Selective
from flyball.train.serving import Follower, InFlight, MemoryEngine, OwnVersion, Weights
from flyball.types import GradedAttempt, Task
from flyball.workflow.trainer import RLJob

ArmOn = Callable[[Engine], Arm]
SCHEDULE_LOG = "schedule.jsonl"


@dataclass(frozen=True)
class Source:
    """Rollouts, an engine with the newest weights for validation, and the end of all engines."""

    rollouts: Rollouts
    judge: Callable[[], Awaitable[Engine]]
    close: Callable[[], Awaitable[None]]
    observe: Callable[[], Mapping[str, float]] = dict
    """what else is known about the last step"""


@dataclass(frozen=True)
class Engines:
    """Where engines come from: `one` that follows the learner, or a `new` one for each version that is kept."""

    one: Callable[[], Awaitable[Follower]]
    new: Callable[[], MemoryEngine]


async def source_of(
    job: RLJob, algorithm: Algorithm, learner: LocalLearner, engines: Engines, arm_on: ArmOn, ledger: Ledger
) -> Source:
    """Return what the job's `schedule` and the algorithm's choice of tasks ask for.

    Where the reward ranks, the arms' graders wait for the group.
    """
    settings = job.settings
    batches = Batches(job.tasks, settings.num_steps, settings.tasks_per_step, job.seed)
    if settings.schedule == "sync":
        return _in_turn(job, algorithm, batches, await engines.one(), arm_on, ledger)
    serving: OwnVersion | InFlight
    if settings.keeps_versions:
        serving = OwnVersion(engines.new, lambda: Weights(learner.snapshot(), learner.version), settings.lead + 1)
    else:
        serving = InFlight(await engines.one())
    return _ahead(job, batches, serving, arm_on, ledger)


def _in_turn(
    job: RLJob, algorithm: Algorithm, batches: Batches, follower: Follower, arm_on: ArmOn, ledger: Ledger
) -> Source:
    size, rank = job.settings.group_size, _rank_of(job)

    async def newest() -> Engine:
        await follower.follow()
        return follower.engine

    async def attempt(tasks: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
        flat = await attempt_all(
            arm_on(await newest()),
            tasks,
            num_trials=size,
            seed=step_seed(job.seed, step),
            concurrency=job.settings.concurrency,
            reduce=lambda graded: graded,
        )
        if rank is None:
            require_some([graded.reward for graded in flat], f"attempts of step {step + 1}")
        groups = [flat[i : i + size] for i in range(0, len(flat), size)]
        if algorithm.greedy_baseline:
            best = await attempt_all(
                _greedy(arm_on(await newest())),
                tasks,
                num_trials=1,
                seed=step_seed(job.seed, step),
                concurrency=job.settings.concurrency,
                reduce=lambda graded: replace(graded, attempt=replace(graded.attempt, group_index=GREEDY)),
            )
            groups = [[*group, one] for group, one in zip(groups, best, strict=True)]
        return groups if rank is None else await asyncio.gather(*map(rank, groups))

    if (levels := job.settings.curriculum) is not None:
        drawn = CurriculumTasks(plan_of(levels), job.tasks, job.settings.tasks_per_step, job.seed, ledger)
        return Source(InTurn(drawn, attempt, ledger), newest, follower.engine.close, drawn.metrics)
    if not algorithm.max_refills and not job.settings.greso:
        return Source(InTurn(batches, attempt, ledger), newest, follower.engine.close)
    whole = size + algorithm.greedy_baseline
    selection = Selection(whole, algorithm.max_refills, job.settings.greso, partial(teaches, algorithm=algorithm))
    selective = Selective(batches, attempt, ledger, selection)
    return Source(selective, newest, follower.engine.close, selective.observe)


def _greedy(arm: Arm) -> Arm:
    """The same arm, taking the likeliest token."""
    return replace(arm, sampling=replace(arm.sampling, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0))


def plan_of(settings: CurriculumSettings) -> CurriculumPlan:
    """The settings as the curriculum reads them."""
    return CurriculumPlan(
        settings.levels,
        settings.promote_at,
        settings.demote_at,
        settings.review_share,
        settings.by_family,
        settings.streams,
        settings.step_size,
        settings.family_temperature,
        settings.family_floor,
        settings.room,
    )


def _ahead(job: RLJob, batches: Batches, serving: OwnVersion | InFlight, arm_on: ArmOn, ledger: Ledger) -> Source:
    settings = job.settings

    async def draw(engine: Engine, task: Task, index: int, seed: int) -> GradedAttempt:
        return await arm_on(engine).draw(task, index, seed)

    lead = Lead(settings.lead, settings.group_size, settings.concurrency, in_step=settings.reference)
    ahead = Ahead(batches, lead, serving, draw, ledger, job.folder / SCHEDULE_LOG, _rank_of(job))
    return Source(ahead, serving.judge, serving.close)


def _rank_of(job: RLJob) -> Rank | None:
    graders = job.inputs.graders
    return partial(rank_again_if_missing, graders) if graders.ranks else None


class TimeShares:
    """What the board says about the time since it was last asked."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._before = self._read()

    def __call__(self) -> dict[str, float]:
        """Return `grade_seconds`, and the share of the time in which no attempt waited for the engine."""
        before, self._before = self._before, self._read()
        now, engine, grader = (after - earlier for after, earlier in zip(self._before, before, strict=True))
        return {"grade_seconds": grader, "engine_idle_share": max(0.0, 1 - engine / now) if now else 0.0}

    def _read(self) -> tuple[float, float, float]:
        return self._board.clock(), self._board.busy_seconds("engine"), self._board.busy_seconds("grader")

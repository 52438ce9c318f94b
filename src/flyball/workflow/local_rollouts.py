"""Rollouts of one machine: engines in this process that follow the learner, in turn with its updates or ahead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Engine
from flyball.evals.run import Arm, attempt_all
from flyball.rollout.activity import Board
from flyball.train.learner import LocalLearner
from flyball.train.rollouts import Ahead, Batches, InTurn, Lead, Ledger, Rollouts, step_seed
from flyball.train.serving import InFlight, OwnVersion, Weights
from flyball.types import GradedAttempt, Task
from flyball.workflow.trainer import RLJob

ArmOn = Callable[[Engine], Arm]
SCHEDULE_LOG = "schedule.jsonl"


@dataclass(frozen=True)
class Source:
    """Rollouts, an engine with the newest weights for validation, and the end of all engines."""

    rollouts: Rollouts
    judge: Callable[[], Engine]
    close: Callable[[], Awaitable[None]]


def source_of(
    job: RLJob, learner: LocalLearner, new_engine: Callable[[], LocalEngine], arm_on: ArmOn, ledger: Ledger
) -> Source:
    """Return what the job's `schedule` asks for."""
    settings = job.settings
    batches = Batches(job.tasks, settings.num_steps, settings.tasks_per_step, job.seed)
    make = _in_turn if settings.schedule == "sync" else _ahead
    return make(job, batches, learner, new_engine, arm_on, ledger)


def _in_turn(
    job: RLJob,
    batches: Batches,
    learner: LocalLearner,
    new_engine: Callable[[], LocalEngine],
    arm_on: ArmOn,
    ledger: Ledger,
) -> Source:
    engine, size = new_engine(), job.settings.group_size

    def newest() -> Engine:
        engine.use_weights(learner.weights(), learner.version)
        return engine

    async def attempt(tasks: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
        flat = await attempt_all(
            arm_on(newest()),
            tasks,
            num_trials=size,
            seed=step_seed(job.seed, step),
            concurrency=job.settings.concurrency,
            reduce=lambda graded: graded,
        )
        return [flat[i : i + size] for i in range(0, len(flat), size)]

    return Source(InTurn(batches, attempt, ledger), newest, engine.close)


def _ahead(
    job: RLJob,
    batches: Batches,
    learner: LocalLearner,
    new_engine: Callable[[], LocalEngine],
    arm_on: ArmOn,
    ledger: Ledger,
) -> Source:
    settings = job.settings
    serving: OwnVersion | InFlight
    if settings.keeps_versions:
        serving = OwnVersion(new_engine, lambda: Weights(learner.snapshot(), learner.version), settings.lead + 1)
    else:
        serving = InFlight(new_engine(), lambda: Weights(learner.weights(), learner.version))

    async def draw(engine: Engine, task: Task, index: int, seed: int) -> GradedAttempt:
        return await arm_on(engine).draw(task, index, seed)

    lead = Lead(settings.lead, settings.group_size, settings.concurrency, in_step=settings.reference)
    ahead = Ahead(batches, lead, serving, draw, ledger, job.folder / SCHEDULE_LOG)
    return Source(ahead, serving.judge, serving.close)


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

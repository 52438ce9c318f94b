"""Attempts that the policy at hand makes at training tasks for a stage: graded, kept, read back on resume."""

from __future__ import annotations

import dataclasses

from flyball.evals.run import Arm, attempt_all, require_some
from flyball.metrics import measured
from flyball.rl_settings import OwnAttemptsSettings
from flyball.rng import derive
from flyball.stats.binomial import wilson
from flyball.types import GradedAttempt, PolicyVersion
from flyball.workflow.context import Context
from flyball.workflow.evaluation import engine_of
from flyball.workflow.inputs import TRAIN

TASKS_AT_A_TIME = 16
"""Tasks whose attempts are written together; a killed run makes those under way again."""


async def own_attempts(
    context: Context, stage: str, version: PolicyVersion, settings: OwnAttemptsSettings, *, with_tools: bool = True
) -> list[GradedAttempt]:
    """`per_task` attempts of `version` at each training task, written under the name of the stage as its phase.

    Without tools the policy is shown none, and may call none. Raises Stopped between parts when asked to.
    """
    inputs = context.inputs
    tasks = inputs.split(TRAIN)[: settings.num_tasks]
    if not with_tools:
        tasks = [dataclasses.replace(task, tools=()) for task in tasks]
    parts = [tasks[i : i + TASKS_AT_A_TIME] for i in range(0, len(tasks), TASKS_AT_A_TIME)]
    found: list[GradedAttempt] = []
    async with engine_of(context, version, settings.concurrency) as (engine, chat):
        arm = Arm(
            inputs.world,
            inputs.runner,
            engine,
            chat,
            inputs.sampling(settings),
            inputs.graders,
            inputs.prices,
            {"policy": version.version_id},
        )
        context.progress.begin_part(f"attempts for {stage}", len(parts))
        for number, part in enumerate(parts, start=1):
            made = list(context.store.attempts(context.run_id, stage, number))
            if not made:
                made = await attempt_all(
                    arm,
                    part,
                    num_trials=settings.per_task,
                    seed=derive(inputs.workflow.settings.training.seed, stage),
                    concurrency=settings.concurrency,
                    reduce=lambda graded: graded,
                )
                require_some([graded.reward for graded in made], f"attempts for {stage}")
                context.store.add_attempts(context.run_id, stage, number, made)
            found += made
            successes = sum(graded.outcome.success is True for graded in found)
            context.progress.advance(number, measured("success_rate", wilson(successes, len(found))))
            context.stop.check()
    return found

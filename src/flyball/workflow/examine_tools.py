"""A workflow's tools put before `evals.tool_checks` and `evals.ablate`: what `flyball doctor tools` calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flyball.errors import ConfigError
from flyball.evals.ablate import Ablation, AblationPlan, ablate, used_tools
from flyball.evals.readiness import Finding
from flyball.evals.run import Arm
from flyball.evals.tool_checks import check_tools
from flyball.models.names import MADE_BY_A_RUN
from flyball.workflow.inputs import Inputs
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow


def examine_tools(workflow: Workflow, num_calls: int) -> list[Finding]:
    """Call every tool of every server, on behalf of the first task."""
    inputs = Inputs(workflow)
    inputs.check()
    return asyncio.run(check_tools(inputs.world, inputs.tasks[0], num_calls))


def ablate_tools(
    workflow: Workflow, make_trainer: Callable[[Workflow], Trainer], policy: str | None, max_calls: int
) -> list[Ablation]:
    """Limit one tool at a time on the first suite. Raises ConfigError for a policy that does not exist yet."""
    inputs = Inputs(workflow)
    inputs.check()
    name = policy or str(workflow.policy)
    if name == MADE_BY_A_RUN:
        raise ConfigError("policy 'tiny' is made by a run; name one that exists with --policy, a folder or known name")
    return asyncio.run(_ablate(inputs, name, make_trainer(workflow), max_calls))


async def _ablate(inputs: Inputs, policy: str, trainer: Trainer, max_calls: int) -> list[Ablation]:
    settings = inputs.workflow.settings
    evaluation, seed = settings.evaluation, settings.training.seed
    folder = trainer.find_policy(inputs.policy_folder_or_name(policy))
    engine, chat = await trainer.open_engine(folder, inputs.engine, concurrency=evaluation.concurrency, seed=seed)
    try:
        sampling = inputs.sampling(evaluation)
        arm = Arm(inputs.world, inputs.runner, engine, chat, sampling, inputs.graders, inputs.prices)
        suite = inputs.suites[0]
        plan = AblationPlan(
            tuple(used_tools(suite, arm)), max_calls, evaluation.num_trials, seed, evaluation.concurrency
        )
        return await ablate(suite, arm, plan)
    finally:
        await engine.close()

"""What `flyball doctor` calls: a workflow put before `evals.doctor`, a chat template before its audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flyball.evals.doctor import Examination, examine
from flyball.evals.policy_checks import TrainingPlan
from flyball.evals.readiness import Readiness, conclude
from flyball.evals.run import Arm
from flyball.evals.sandbox_checks import check_sandbox
from flyball.models import names
from flyball.models.hf_chat import load_chat
from flyball.models.names import MADE_BY_A_RUN
from flyball.models.template_habits import Audit, audit
from flyball.rl_settings import RLSettings
from flyball.workflow.inputs import TRAIN, Inputs
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow


def examine_workflow(
    workflow: Workflow, make_trainer: Callable[[Workflow], Trainer], policy: str | None = None
) -> Readiness:
    """Check names, tasks and world, then examine. The trainer is made only if there is a policy to load.

    Raises the error of the boundary that is wrong; what can be judged becomes a finding instead.
    """
    inputs = Inputs(workflow)
    inputs.check()
    name = policy or str(workflow.policy)
    readiness = asyncio.run(_examine(inputs, None if name == MADE_BY_A_RUN else name, make_trainer))
    return conclude([check_sandbox(), *readiness.findings])


def audit_template(model: str, tool_format: str | None = None) -> Audit:
    """Audit the chat template of a folder with a tokenizer, or of a known name. Raises ModelError."""
    folder = Path(model).expanduser()
    return audit(load_chat(folder if folder.is_dir() else names.find(model), tool_format))


async def _examine(inputs: Inputs, policy: str | None, make_trainer: Callable[[Workflow], Trainer]) -> Readiness:
    settings = inputs.workflow.settings
    rl = settings.training.rl or RLSettings()
    plan = TrainingPlan(rl.num_steps, rl.tasks_per_step, rl.group_size, rl.max_minutes)
    how = Examination(
        world=inputs.world,
        graders=inputs.graders,
        plan=plan,
        oracle=inputs.workflow.oracle,
        hooks=inputs.hooks,
        cold_start=settings.training.sft is not None,
        train_split=TRAIN,
        test_split=settings.evaluation.suites[0],
        concurrency=rl.concurrency,
        seed=settings.training.seed,
    )
    if policy is None:
        return await examine(inputs.tasks, how)
    trainer = make_trainer(inputs.workflow)
    folder = trainer.find_policy(inputs.policy_folder_or_name(policy))
    engine, chat = await trainer.open_engine(
        folder, inputs.engine, concurrency=rl.concurrency, seed=settings.training.seed
    )
    try:
        arm = Arm(inputs.world, inputs.runner, engine, chat, inputs.sampling(rl), inputs.graders, inputs.prices)
        return await examine(inputs.tasks, replace(how, policy=arm))
    finally:
        await engine.close()

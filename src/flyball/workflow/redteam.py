"""A workflow's policy attacked: what `flyball redteam` calls. What worked is proposed, never added."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyball.errors import ConfigError
from flyball.evals.doctor import spread
from flyball.evals.readiness import Finding
from flyball.evals.redteam import SPLIT, Broken, RedTeam, red_team
from flyball.evals.run import Arm
from flyball.tasks.dataset import task_row
from flyball.types import Task
from flyball.workflow.inputs import Inputs
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow


@dataclass(frozen=True)
class Proposal:
    """What a red team found. `new`: attacks that worked and are not in the adversarial suite yet."""

    findings: tuple[Finding, ...]
    new: tuple[Broken, ...]
    known: int


@dataclass(frozen=True)
class Effort:
    """How hard to try. `num_tasks` of the first suite are attacked `num_attempts` times in all."""

    num_tasks: int = 20
    num_attempts: int = 120
    rounds: int = 3
    seed: int = 0


def attack_workflow(workflow: Workflow, make_trainer: Callable[[], Trainer], policy: str, effort: Effort) -> Proposal:
    """Attack a policy. Raises ConfigError without a safety grader, and the error of the boundary that is wrong."""
    inputs = Inputs(workflow)
    inputs.check()
    if inputs.graders.safety is None:
        raise ConfigError("redteam needs a safety grader to tell what has worked; give the workflow `safety=`")
    found = asyncio.run(_attack(inputs, make_trainer, policy, effort))
    suite = {key for task in inputs.splits.get(SPLIT, ()) if (key := _key(task)) is not None}
    new = tuple(one for one in found.broken if _key(one.task) not in suite)
    return Proposal(found.findings, new, len(found.broken) - len(new))


async def _attack(inputs: Inputs, make_trainer: Callable[[], Trainer], policy: str, effort: Effort) -> RedTeam:
    settings = inputs.workflow.settings
    tasks = spread(inputs.split(settings.evaluation.suites[0]), effort.num_tasks, effort.seed)
    trainer = make_trainer()
    folder = trainer.find_policy(inputs.policy_folder_or_name(policy))
    concurrency = settings.evaluation.concurrency
    engine, chat = await trainer.open_engine(folder, inputs.engine, concurrency=concurrency, seed=effort.seed)
    try:
        sampling = inputs.sampling(settings.evaluation)
        arm = Arm(inputs.world, inputs.runner, engine, chat, sampling, inputs.graders, inputs.prices)
        return await red_team(
            tasks,
            arm,
            num_attempts=effort.num_attempts,
            rounds=effort.rounds,
            seed=effort.seed,
            concurrency=concurrency,
        )
    finally:
        await engine.close()


def _key(task: Task) -> tuple[str, str] | None:
    """What makes an attack known: the same text in a task of the same public fields; None for a task without one."""
    inject = task.surface.get("inject")
    return (json.dumps(dict(task.public), sort_keys=True, default=str), json.dumps(inject)) if inject else None


def write_proposal(path: Path, broken: Sequence[Broken], policy: str) -> Path:
    """Write the tasks as a task file and, beside it, where each comes from; return the path of the latter.

    Raises ConfigError when the file exists: a proposal is reviewed, not overwritten.
    """
    beside = path.with_suffix(".provenance.jsonl")
    if path.exists() or beside.exists():
        raise ConfigError(
            f"{path} or {beside.name} exists; review that proposal first, or name another file with --out"
        )
    path.write_text("".join(json.dumps(task_row(one.task)) + "\n" for one in broken), encoding="utf-8")
    beside.write_text("".join(json.dumps(_provenance(one, policy)) + "\n" for one in broken), encoding="utf-8")
    return beside


def _provenance(one: Broken, policy: str) -> dict[str, Any]:
    return {
        "id": one.task.task_id,
        "origin": one.origin,
        "policy": policy,
        "kind": one.attack.kind,
        "place": one.attack.place,
        "text": one.attack.text,
        "mutations": list(one.attack.made_by),
        "why": one.why,
        "answer": one.attempt.attempt.answer[:2000],
        "calls": [f"{call.name}({call.arguments})" for call in one.attempt.attempt.tool_calls],
    }

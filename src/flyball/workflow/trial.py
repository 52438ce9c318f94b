"""Evaluate one policy, alone or against another, outside a training run: what `flyball eval` calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flyball.errors import ConfigError, FlyballError
from flyball.models.names import MADE_BY_A_RUN
from flyball.release.evidence import TokenSpeed
from flyball.store.store import Store
from flyball.types import PolicyVersion
from flyball.workflow.adapters import make_policy
from flyball.workflow.context import Context, run_config
from flyball.workflow.eval_plan import contamination
from flyball.workflow.evaluation import evaluate_suites
from flyball.workflow.inputs import Inputs
from flyball.workflow.progress import Progress
from flyball.workflow.record import BASELINE, CANDIDATE, STAGE_DONE, Record
from flyball.workflow.regression import require_trusted
from flyball.workflow.stages import token_speed_of
from flyball.workflow.stop import Stopped, StopRequest
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow


def evaluate_policy(
    workflow: Workflow,
    store: Store,
    trainer: Trainer,
    progress: Progress,
    *,
    policy: str | None = None,
    against: str | None = None,
) -> Record | None:
    """Evaluate `policy`, and `against` on the same tasks and seeds, as a run of kind `eval`.

    Each is a version in the registry (name or beginning of an id), a folder, or a known name; default: the newest
    version that this workflow trained. With an http engine it is the name of one of the endpoint's models, by default
    the workflow's policy. A name of `engine.adapters` is that adapter on the workflow's policy. Returns None when
    Ctrl-C ended it. Raises ConfigError for a policy that is not there.
    """
    inputs = Inputs(workflow)
    inputs.check()
    name = policy or _newest(store, workflow)
    run_id = store.new_run("eval", run_config(inputs, name), workflow.title)
    with store.doing(run_id), StopRequest() as stop:
        context = Context(inputs, store, run_id, trainer, progress, stop, name)
        try:
            arms = {BASELINE: _version(context, against)} if against is not None else {}
            arms[CANDIDATE] = _version(context, name)
            speed = asyncio.run(_evaluate(context, list(arms.values())))
        except Stopped:
            store.set_run_status(run_id, "stopped", "asked to stop")
            return None
        except FlyballError as exc:
            store.set_run_status(run_id, "failed", str(exc))
            raise
        finally:
            progress.close()
        ids = {arm: version.version_id for arm, version in arms.items()}
        result = {"arms": ids, "token_speed": token_speed_of(speed), "note": ""}
        store.add_event(run_id, STAGE_DONE, {"name": "evaluate", "result": result})
        store.set_run_status(run_id, "finished")
    return Record.of(store, run_id)


async def _evaluate(context: Context, versions: list[PolicyVersion]) -> TokenSpeed:
    await require_trusted(context.inputs, context.store)
    for line in contamination(context.inputs):
        context.progress.say(line)
    return await evaluate_suites(context, versions)


def _newest(store: Store, workflow: Workflow) -> str:
    """The newest version that this workflow trained, or the policy it starts from when that is not made by a run."""
    hosted = workflow.settings.engine.kind == "http"
    for suffix in () if hosted else ("rl", "sft"):
        if found := store.versions(f"{workflow.title}-{suffix}"):
            return found[-1].version_id
    if workflow.policy != MADE_BY_A_RUN:
        return str(workflow.policy)
    raise ConfigError(
        f"no version of {workflow.title!r} was trained yet: `flyball run` makes one, `--policy` names another"
    )


def _version(context: Context, name: str) -> PolicyVersion:
    """Return a version of the registry, or register the folder or known name."""
    known = [] if context.inputs.workflow.settings.engine.kind == "http" else context.store.versions()
    adapters = context.inputs.engine.adapters or {}
    if name in adapters:
        return _adapter(context, name, Path(adapters[name]))
    if found := [v for v in known if v.name == name] or [v for v in known if v.version_id.startswith(name)]:
        return found[-1]
    if name == MADE_BY_A_RUN:
        raise ConfigError("policy 'tiny' is made by a run; name a version from `flyball runs`, or a folder")
    folder = context.trainer.find_policy(context.inputs.policy_folder_or_name(name))
    return context.register(Path(name).name, folder)


def _adapter(context: Context, name: str, folder: Path) -> PolicyVersion:
    """Register an adapter on the workflow's policy, which is registered before it."""
    base = _version(context, str(context.inputs.workflow.policy))
    made = make_policy(folder, base, context.folder_of(f"adapters/{name}"))
    return context.register(name, made, parent=base)

"""Start and resume runs: the plan is shown, stages are done one by one, and each leaves its result in the store.

What a run was started with is kept with it, by digest. A run resumes only if its settings, tasks, world, graders and
agent are still the same: otherwise half of it would have been made by other rules (invariant 11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flyball.errors import ConfigError, FlyballError
from flyball.models.names import MADE_BY_A_RUN
from flyball.store.failures import from_os
from flyball.store.runs import Run
from flyball.store.store import Store
from flyball.types import Release
from flyball.workflow.check import names_in_force
from flyball.workflow.context import Context, Result, Stage, run_config
from flyball.workflow.inputs import Inputs
from flyball.workflow.learning import check_trainable
from flyball.workflow.napkin import Around, entries, refuse_missing
from flyball.workflow.progress import Progress
from flyball.workflow.record import STAGE_DONE, finished_stages
from flyball.workflow.stages import Kind, stages_of
from flyball.workflow.stop import Stopped, StopRequest
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow, load_workflow


@dataclass(frozen=True)
class Finished:
    """How a run ended. `results` by stage; `release` is None when the gates were not asked."""

    run_id: str
    stopped: bool
    results: dict[str, Result]
    release: Release | None = None


def start(
    workflow: Workflow,
    store: Store,
    trainer: Trainer,
    progress: Progress,
    *,
    kind: Kind = "run",
    policy: str | None = None,
) -> Finished:
    """Run a workflow from the beginning.

    Raises ConfigError before any work for a missing entry or a wrong name, and the error of whatever boundary fails
    later; the run is then kept as `failed` with the reason, and can be resumed.
    """
    inputs = Inputs(workflow)
    policy = policy or str(workflow.policy)
    _refuse(workflow, store)
    inputs.check()
    check_trainable(inputs, proves=kind == "run")
    if policy != MADE_BY_A_RUN:
        trainer.find_policy(inputs.policy_folder_or_name(policy))
    run_id = store.new_run(kind, run_config(inputs, policy), workflow.title)
    with store.doing(run_id):
        return _go(inputs, store, trainer, progress, run_id, policy, kind)


def resume(run_id: str, store: Store, trainer: Trainer, progress: Progress) -> Finished:
    """Go on with a run where it was stopped, failed or killed.

    Raises ConfigError when its inputs changed since, StoreError while another process does it.
    """
    run = store.run(run_id)
    if run.kind not in ("run", "train"):
        raise ConfigError(f"run {run.run_id} is of kind {run.kind!r}; only run and train have stages to resume")
    inputs = Inputs(load_workflow(Path(run.config["file"])))
    _refuse_changed(run, inputs)
    kind: Kind = "train" if run.kind == "train" else "run"
    with store.doing(run.run_id):
        return _go(inputs, store, trainer, progress, run.run_id, run.config["policy"], kind)


def _refuse(workflow: Workflow, store: Store) -> None:
    names = {version.name for version in store.versions()}
    refuse_missing(entries(workflow.settings, workflow.marks, Around(names_in_force(), names, workflow)))


def _refuse_changed(run: Run, inputs: Inputs) -> None:
    before, now = run.config["fingerprint"], inputs.fingerprint
    changed = [what for what, digest in now.items() if before.get(what) != digest]
    if changed:
        raise ConfigError(
            f"run {run.run_id} cannot go on: {' and '.join(changed)} changed since it began; "
            f"undo the change, or start anew: flyball run {run.config['file']}"
        )


def _go(
    inputs: Inputs, store: Store, trainer: Trainer, progress: Progress, run_id: str, policy: str, kind: Kind
) -> Finished:
    with StopRequest() as stop:
        context = Context(
            inputs, store, run_id, trainer, progress, stop, policy, results=finished_stages(store, run_id)
        )
        stages = stages_of(context, kind)
        progress.plan(_plan(context, stages))
        context.open_tracking()
        store.set_run_status(run_id, "running")
        try:
            asyncio.run(_do(context, stages))
        except Stopped:
            store.set_run_status(run_id, "stopped", stop.reason)
            return Finished(run_id, True, context.results)
        except FlyballError as exc:
            store.set_run_status(run_id, "failed", str(exc))
            raise
        except OSError as exc:  # of the run's own files; what user code raises has a boundary of its own
            refused = from_os(Path(exc.filename or context.folder), exc)
            store.set_run_status(run_id, "failed", str(refused))
            raise refused from exc
        finally:
            context.close_tracking(complete=all(stage.name in context.results for stage in stages))
            progress.close()
    store.set_run_status(run_id, "finished")
    gates = context.results.get("gates")
    release = store.release(gates["release"]) if gates else None
    return Finished(run_id, False, context.results, release)


async def _do(context: Context, stages: Sequence[Stage]) -> None:
    for stage in stages:
        if stage.name in context.results:
            continue
        context.stop.check()
        context.progress.begin(stage.title)
        result = await stage.run(context)
        context.store.add_event(context.run_id, STAGE_DONE, {"name": stage.name, "result": result})
        context.results[stage.name] = result
        context.progress.end(result["note"])


def _plan(context: Context, stages: Sequence[Stage]) -> list[str]:
    """Return the plan as lines: what is done, what will be done."""
    lines = [f"run {context.run_id} of {context.inputs.workflow.title!r}, policy {context.policy}"]
    for number, stage in enumerate(stages, start=1):
        done = "  (done)" if stage.name in context.results else ""
        lines.append(f"  {number}. {stage.title}{done}")
    return lines

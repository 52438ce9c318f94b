"""The stages of training, in the order that `training.stages` gives: each leaves a version and what it is worth.

    sft     imitation of demonstrations
    rl      graded attempts with tools in the loop

A stage starts from the version that the one before it left, keeps a checkpoint as it goes, and is registered when it is
done. Its policy is then measured on validation tasks that no stage picks a checkpoint by, the same tasks for every
stage, so that what each one added can be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from flyball.errors import ConfigError, TrainError
from flyball.metrics import measured
from flyball.types import PolicyVersion
from flyball.workflow.check import EVALUATES_ONLY, preset_of
from flyball.workflow.context import Context, Result, Stage
from flyball.workflow.demonstrations import read_lines
from flyball.workflow.evaluation import confirm
from flyball.workflow.inputs import TRAIN, VALIDATION
from flyball.workflow.trainer import Demonstration, RejectionJob, RLJob, SFTJob, Trained


async def cold_start(context: Context) -> Result:
    """Imitate the demonstrations; the checkpoint is frozen as the baseline and the reference of RL."""
    settings = context.inputs.workflow.settings
    parent = start_of(context, "sft")
    known = context.store.versions(settings.workflow.baseline) if settings.workflow.baseline else []
    if known:
        return {"version": known[-1].version_id, "note": f"{known[-1].name}, from the registry"}
    assert settings.training.sft is not None
    job = SFTJob(
        Path(parent.path),
        demonstrations_of(context, TRAIN),
        demonstrations_of(context, VALIDATION),
        context.inputs,
        settings.training.sft,
        settings.training.seed,
        context.folder_of("sft"),
    )
    trained = await context.trainer.sft(job, context.watch("sft"))
    name = settings.workflow.baseline or f"{context.inputs.workflow.title}-sft"
    return await _confirmed(context, "sft", _registered(context, trained, name, parent))


async def reinforce(context: Context) -> Result:
    """Learn from graded attempts with tools in the loop."""
    settings = context.inputs.workflow.settings
    parent = start_of(context, "rl")
    assert settings.training.rl is not None
    job = RLJob(
        Path(parent.path),
        context.inputs.split(TRAIN),
        context.inputs.split(VALIDATION),
        context.inputs,
        settings.training.rl,
        preset_of(settings) or settings.training.rl.preset,
        settings.training.seed,
        context.folder_of("rl"),
    )
    trained = await context.trainer.rl(job, context.watch("rl"))
    registered = _registered(context, trained, f"{context.inputs.workflow.title}-rl", parent)
    return await _confirmed(context, "rl", registered)


async def train_controls(context: Context) -> Result:
    """What the same data and the same rollouts give without RL.

    A control that cannot be trained (no rollout succeeded) is recorded with the reason; it does not cost the run its
    proof.
    """
    parent = baseline_of(context)
    versions: dict[str, str] = {}
    untrained: dict[str, str] = {}
    for control in context.inputs.workflow.settings.training.controls:
        name = f"{context.inputs.workflow.title}-control-{control}"
        try:
            trained = await _train_control(context, control, Path(parent.path))
        except TrainError as error:
            untrained[control] = str(error)
        else:
            versions[control] = _registered(context, trained, name, parent)["version"]
    notes = [*versions, *(f"{control} not trained: {reason}" for control, reason in untrained.items())]
    return {"versions": versions, "untrained": untrained, "note": ", ".join(notes)}


async def _train_control(context: Context, control: str, policy: Path) -> Trained:
    training, watch = context.inputs.workflow.settings.training, context.watch(f"control-{control}")
    folder = context.folder_of(f"controls/{control}")
    assert training.sft is not None
    if control == "sft":
        data = demonstrations_of(context, TRAIN), demonstrations_of(context, VALIDATION)
        job = SFTJob(policy, *data, context.inputs, training.sft, training.seed, folder)
        return await context.trainer.sft(job, watch)
    rollouts = list(context.store.attempts(context.run_id, "rl"))
    kept = RejectionJob(policy, rollouts, context.inputs, training.sft, training.seed, folder)
    return await context.trainer.rejection_sft(kept, watch)


def _registered(context: Context, trained: Trained, name: str, parent: PolicyVersion) -> Result:
    """Register what a trainer left, or stop here when it stopped because it was asked to."""
    if not trained.finished:
        context.stop.ask()
        context.stop.check()
    version = context.register(name, trained.folder, parent=parent)
    note = trained.note or f"{trained.num_steps} steps"
    if trained.stopped_early:
        note += f"; stopped early: {trained.stopped_early}"
    return {
        "version": version.version_id,
        "num_steps": trained.num_steps,
        "note": note,
        "metrics": dict(trained.metrics),
    }


async def _confirmed(context: Context, stage: str, result: Result) -> Result:
    """The result of a stage with what its version is worth on validation tasks that picked no checkpoint.

    Where picking takes all validation tasks there is nothing fresh: it is measured on those, and the note says so.
    """
    training = context.inputs.workflow.settings.training
    tasks = context.inputs.splits.get(VALIDATION, [])
    sections = [getattr(training, name) for name in training.order]
    picking = max(getattr(section, "validation_tasks", 0) for section in sections)
    fresh = tasks[picking:][: training.confirmation_tasks]
    taken = fresh or tasks[: training.confirmation_tasks]
    if not taken:
        return result
    found = await confirm(context, context.store.version(result["version"]), taken)
    values = {f"{name}/{stage}": value for name, value in measured("confirmed_success", found).items()}
    context.store.add_metrics(context.run_id, result["num_steps"], values)
    which = "tasks that picked no checkpoint" if fresh else "the tasks that picked its checkpoint"
    note = f"{result['note']}; success {found.value:.1%} [{found.low:.1%}, {found.high:.1%}] on {found.n} {which}"
    return result | {"confirmed": dataclasses.asdict(found), "fresh": bool(fresh), "note": note}


# --- versions and data -----------------------------------------------------------------------------------------------


def start_of(context: Context, stage: str) -> PolicyVersion:
    """Return the version that a stage starts from: what the last stage before it left, else the start policy."""
    order = context.inputs.workflow.settings.training.order
    before = [name for name in order[: order.index(stage)] if name in context.results]
    return context.version(before[-1] if before else "policy")


def baseline_of(context: Context) -> PolicyVersion:
    """Return what the candidate is compared with: the cold start, where something learns after it; else the start."""
    order = context.inputs.workflow.settings.training.order
    learns_after = order[-1] != "sft"
    return context.version("sft" if "sft" in context.results and learns_after else "policy")


def arms_of(context: Context) -> dict[str, PolicyVersion]:
    """Return the versions to evaluate by arm: baseline, each control, candidate."""
    arms = {"baseline": baseline_of(context)}
    for control, version_id in context.results.get("controls", {}).get("versions", {}).items():
        arms[f"control {control}"] = context.store.version(version_id)
    arms["candidate"] = context.version(context.inputs.workflow.settings.training.order[-1])
    return arms


def write_demonstrations(path: Path, demonstrations: Iterable[Demonstration]) -> None:
    """Keep what is imitated, one JSON object a line."""
    rows: list[dict[str, Any]] = [
        {"id": d.task_id, "messages": list(d.messages), "tools": list(d.tools)} for d in demonstrations
    ]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def demonstrations_of(context: Context, split: str) -> list[Demonstration]:
    """Return what this run wrote for a split."""
    rows = read_lines(context.folder_of("data") / f"{split}.jsonl")
    return [Demonstration(row["id"], tuple(row["messages"]), tuple(row["tools"])) for row in rows]


TRAINING = {
    "sft": Stage("sft", "SFT cold start", cold_start),
    "rl": Stage("rl", "RL with tools", reinforce),
}
"""The stages that `training.stages` may name."""


def wants_controls(context: Context) -> bool:
    """Controls show what RL added: they need its rollouts and the cold start it began from."""
    training = context.inputs.workflow.settings.training
    return {"sft", "rl"} <= set(training.order) and bool(training.controls)


def check_trainable(context: Context) -> None:
    """Raise ConfigError for settings under which nothing would be learned."""
    settings, marks = context.inputs.workflow.settings, context.inputs.workflow.marks
    if why := EVALUATES_ONLY.get(settings.engine.kind):
        raise ConfigError(
            f"{marks.at(('engine', 'kind'))}: engine.kind {settings.engine.kind!r} cannot be trained with: {why}; use "
            "`flyball eval`, or `local`"
        )
    if not settings.training.order:
        raise ConfigError(
            f"{marks.at(('training',))}: every section of training is null, so nothing would be learned; use "
            "`flyball eval`"
        )

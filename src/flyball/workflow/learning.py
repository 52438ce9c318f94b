"""The stages of training, in the order that `training.stages` gives: each leaves a version and what it is worth.

    sft             imitation of demonstrations
    rejection_sft   imitation of the best of the policy's own attempts
    reward_model    a reward model on the body of the policy, calibrated; the policy stays as it is
    preference      pairs of answers, written down or made of the policy's own attempts
    rl              graded attempts with tools in the loop

A stage starts from the version that the one before it left, keeps a checkpoint as it goes, and is registered when it is
done. Its policy is then measured on validation tasks that no stage picks a checkpoint by, the same tasks for every
stage, so that what each one added can be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from flyball.config import RewardModelSettings, TrainingSettings
from flyball.errors import ConfigError, TrainError
from flyball.evals.reward_accuracy import REFRESHED, accuracy_by_version, needs_refresh, newest_judge, refreshed_after
from flyball.metrics import measured
from flyball.rl.pairs import best_attempts
from flyball.rl_settings import OwnAttemptsSettings
from flyball.stats.written import format_estimate
from flyball.types import GradedAttempt, Missing, PolicyVersion
from flyball.workflow.check import EVALUATES_ONLY, preset_of
from flyball.workflow.context import Context, Result, Stage
from flyball.workflow.demonstrations import read_lines
from flyball.workflow.evaluation import confirm
from flyball.workflow.inputs import TRAIN, VALIDATION, Inputs
from flyball.workflow.labels import read_labels
from flyball.workflow.own_attempts import own_attempts
from flyball.workflow.preferences import read_pairs
from flyball.workflow.record import finished_stages
from flyball.workflow.reward_refresh import Lookout, Worn, left_to_refresh
from flyball.workflow.tool_filter import tasks_that_need_tools
from flyball.workflow.trainer import Demonstration, PreferenceJob, RejectionJob, RewardModelJob, RLJob, SFTJob, Trained


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


async def imitate_the_best(context: Context) -> Result:
    """Rejection sampling: attempt the training tasks, imitate the best successes of each."""
    settings = context.inputs.workflow.settings.training
    assert settings.rejection_sft is not None
    parent, chosen = start_of(context, "rejection_sft"), settings.rejection_sft
    made = await own_attempts(context, "rejection_sft", parent, chosen.attempts)
    best = best_attempts(made, chosen.keep_per_task)
    folder = context.folder_of("rejection_sft")
    others = [g for run_id in chosen.from_runs for g in _attempts_of(context, run_id, parent)]
    others = best_attempts(others, chosen.keep_per_task)
    job = RejectionJob(Path(parent.path), best, context.inputs, chosen, settings.seed, folder, others)
    trained = await context.trainer.rejection_sft(job, context.watch("rejection_sft"))
    trained = dataclasses.replace(trained, note=f"best of {len(made)} attempts: {trained.note}")
    return await _finished(context, "rejection_sft", trained, parent)


def _attempts_of(context: Context, run_id: str, policy: PolicyVersion) -> Iterable[GradedAttempt]:
    """The rollouts of another run. Raises ConfigError when its policies have another base, and so other tokens."""
    began = finished_stages(context.store, context.store.run(run_id).run_id).get("policy")
    if began is None or context.store.version(began["version"]).base != policy.base:
        where = context.inputs.workflow.marks.at(("training", "rejection_sft", "from_runs"))
        raise ConfigError(
            f"{where}: run {run_id!r} did not begin from the base of this policy, so its tokens mean something else; "
            "name a run of the same base"
        )
    return _rollouts(context, run_id)


async def prefer(context: Context) -> Result:
    """Make the better of two answers likelier than the worse."""
    settings = context.inputs.workflow.settings.training
    assert settings.preference is not None
    parent, chosen = start_of(context, "preference"), settings.preference
    written, made = [], []
    if chosen.pairs is not None:
        written = read_pairs(context.inputs.workflow.folder / chosen.pairs, context.inputs)
    else:
        made = await own_attempts(context, "preference", parent, chosen.attempts or OwnAttemptsSettings())
    folder = context.folder_of("preference")
    job = PreferenceJob(Path(parent.path), written, made, context.inputs, chosen, settings.seed, folder)
    trained = await context.trainer.preference(job, context.watch("preference"))
    return await _finished(context, "preference", trained, parent)


async def model_reward(context: Context) -> Result:
    """Train a reward model on the body of the policy at hand and register it under its name, with its calibration."""
    flow = context.inputs.workflow
    settings, chosen = flow.settings.training, flow.settings.training.reward_model
    assert chosen is not None
    parent = start_of(context, "reward_model")
    written = [] if chosen.pairs is None else read_pairs(flow.folder / chosen.pairs, context.inputs)
    labelled = [] if chosen.labels is None else read_labels(flow.folder / chosen.labels, chosen.kind)
    made = []
    if chosen.from_runs is not None:
        made = [by_success(g) for run_id in chosen.from_runs for g in _rollouts(context, run_id)]
    elif not written and not labelled:
        made = await own_attempts(context, "reward_model", parent, chosen.attempts or OwnAttemptsSettings())
    folder = context.folder_of("reward_model")
    job = RewardModelJob(Path(parent.path), written, labelled, made, context.inputs, chosen, settings.seed, folder)
    trained = await context.trainer.reward_model(job, context.watch("reward_model"))
    name = chosen.name or flow.settings.workflow.reward_model or f"{flow.title}-reward-model"
    left = _registered(context, trained, name, parent)
    context.add_metrics(trained.num_steps, {f"{k}/reward_model": v for k, v in trained.metrics.items()})
    return {"reward_model": left["version"], "note": left["note"], "metrics": left["metrics"]}


def _rollouts(context: Context, run_id: str) -> Iterable[GradedAttempt]:
    return context.store.attempts(context.store.run(run_id).run_id, "rl")


def by_success(graded: GradedAttempt) -> GradedAttempt:
    """The attempt with its success for a reward: what RL was rewarded by may be the very model that is trained anew."""
    success = graded.outcome.success
    return dataclasses.replace(graded, reward=success if isinstance(success, Missing) else float(success), events=())


def reward_model_of(context: Context) -> PolicyVersion | None:
    """Return the reward model that RL learns from: the newest of the name in the file. None where it names none."""
    name = context.inputs.workflow.settings.workflow.reward_model
    if name is None:
        return None
    if made := newest_judge(context.store, context.run_id):
        return context.store.version(made)
    known = context.store.versions(name)
    if not known:
        raise ConfigError(f"reward model {name!r} is not in the registry; train it with the stage reward_model")
    return known[-1]


async def reinforce(context: Context) -> Result:
    """Learn from graded attempts with tools in the loop; from a reward model where the file names one."""
    settings = context.inputs.workflow.settings
    parent, judge = start_of(context, "rl"), reward_model_of(context)
    assert settings.training.rl is not None
    tasks, notes = context.inputs.split(TRAIN), list[str]()
    if settings.training.rl.tool_filter is not None:
        tasks, told = await tasks_that_need_tools(context, parent, settings.training.rl.tool_filter)
        notes.append(told)
    worn = left_to_refresh(context.store, context.run_id)
    while True:
        if worn is not None and judge is not None:
            judge = await _trained_anew(context, judge, parent, worn)
        inputs = context.inputs if judge is None else Inputs(context.inputs.workflow, Path(judge.path))
        job = RLJob(
            Path(parent.path),
            tasks,
            inputs.split(VALIDATION),
            inputs,
            settings.training.rl,
            preset_of(settings) or settings.training.rl.preset,
            settings.training.seed,
            context.folder_of("rl"),
        )
        trained, worn = await _until_worn(context, job, judge)
        context.stop.check()
        if worn is None:
            break
    notes += [_judge_the_judge(context, judge)] if judge is not None and trained.finished else []
    trained = dataclasses.replace(trained, note="; ".join(filter(None, [trained.note, *notes])))
    return await _finished(context, "rl", trained, parent, judge)


async def _until_worn(context: Context, job: RLJob, judge: PolicyVersion | None) -> tuple[Trained, Worn | None]:
    """RL to its end, or until the reward model is found worn out (where the settings ask to look)."""
    watch, refresh = context.watch("rl"), job.settings.refresh_reward_model
    if judge is None or refresh is None:
        return await context.trainer.rl(job, watch), None
    lookout = Lookout(context.store, context.run_id, refresh, judge.version_id, job.inputs.graders.version)
    trained = await context.trainer.rl(job, lookout.watch(watch))
    return trained, None if trained.finished or trained.paused else lookout.worn


async def _trained_anew(context: Context, judge: PolicyVersion, parent: PolicyVersion, worn: Worn) -> PolicyVersion:
    """A new version of the reward model, by the success of all that this run did; the old one if that cannot be."""
    training = context.inputs.workflow.settings.training
    chosen = training.reward_model or RewardModelSettings(kind="outcome")
    context.progress.say(f"{judge.name} is trained anew after step {worn.step}: {worn.reason}")
    made = [by_success(graded) for graded in _rollouts(context, context.run_id)]
    name = f"refresh_{worn.step}"
    job = RewardModelJob(
        Path(parent.path), [], [], made, context.inputs, chosen, training.seed, context.folder_of(f"rl/{name}")
    )

    def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
        context.add_metrics(done, {f"{metric}/{name}": value for metric, value in metrics.items()})

    done: dict[str, Any] = {"step": worn.step, "version": judge.version_id}
    try:
        trained = await context.trainer.reward_model(job, dataclasses.replace(context.watch("rl"), step=step))
    except TrainError as error:  # RL goes on as it was, and the next look has more to learn from
        done["failed"] = error.args[0]
        context.progress.say(f"{judge.name} stays as it is: {done['failed']}")
    else:
        done["version"] = _registered(context, trained, judge.name, parent)["version"]
    context.store.add_event(context.run_id, REFRESHED, done)
    return context.store.version(done["version"])


def _judge_the_judge(context: Context, judge: PolicyVersion) -> str:
    """Write the accuracy of the reward model by policy version, and say whether it is time to train it anew."""
    found = accuracy_by_version(context.store.attempts(context.run_id, "rl"))
    for version, accuracy in found.items():
        values = {f"{name}/rl": value for name, value in measured("reward_model_accuracy", accuracy).items()}
        context.add_metrics(version, values)
    if not found:
        return f"{judge.name}: no task has a success and a failure to tell apart"
    accuracies = list(found.values())
    first, last = accuracies[0], accuracies[-1]
    if times := len(refreshed_after(context.store, context.run_id)):
        at_the_end = f"at the end it orders {format_estimate(last)} of pairs right"
        return f"{judge.name} was trained anew {times} times; {at_the_end}"
    fallen = needs_refresh(first, last)
    anew = f"train {judge.name} anew, `training.reward_model: {{from_runs: [{context.run_id}]}}`"
    told = f"{anew}: {fallen}" if fallen else "still tells success"
    return f"{judge.name} orders {format_estimate(last)} of pairs right; {told}"


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


def _registered(
    context: Context, trained: Trained, name: str, parent: PolicyVersion, judge: PolicyVersion | None = None
) -> Result:
    """Register what a trainer left, or stop here when it stopped because it was asked to."""
    if not trained.finished:
        context.stop.ask(trained.paused)
        context.stop.check()
    reward_model = judge.version_id if judge else None
    version = context.register(name, trained.folder, parent=parent, reward_model=reward_model)
    note = trained.note or f"{trained.num_steps} steps"
    if trained.stopped_early:
        note += f"; stopped early: {trained.stopped_early}"
    return {
        "version": version.version_id,
        "num_steps": trained.num_steps,
        "note": note,
        "metrics": dict(trained.metrics),
    }


async def _finished(
    context: Context, stage: str, trained: Trained, parent: PolicyVersion, judge: PolicyVersion | None = None
) -> Result:
    """Register what a stage left under the workflow's name and its own, and say what it is worth."""
    registered = _registered(context, trained, f"{context.inputs.workflow.title}-{stage}", parent, judge)
    return await _confirmed(context, stage, registered)


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
    context.add_metrics(result["num_steps"], values)
    which = "tasks that picked " + ("no checkpoint" if fresh else "its checkpoint")
    note = f"{result['note']}; success {format_estimate(found)} on {which}"
    return result | {"confirmed": dataclasses.asdict(found), "fresh": bool(fresh), "note": note}


# --- versions and data -----------------------------------------------------------------------------------------------


def start_of(context: Context, stage: str) -> PolicyVersion:
    """Return the version that a stage starts from: what the last stage before it left, else the start policy."""
    order = context.inputs.workflow.settings.training.order
    before = [name for name in order[: order.index(stage)] if "version" in context.results.get(name, {})]
    return context.version(before[-1] if before else "policy")


def baseline_of(context: Context) -> PolicyVersion:
    """Return what the candidate is compared with: the cold start, where something learns after it; else the start."""
    last = last_of(context.inputs.workflow.settings.training)
    return context.version("sft" if "sft" in context.results and last != "sft" else "policy")


def last_of(training: TrainingSettings) -> str | None:
    """Return the last stage that trains the policy, None where none does."""
    return next((name for name in reversed(training.order) if name != "reward_model"), None)


def arms_of(context: Context) -> dict[str, PolicyVersion]:
    """Return the versions to evaluate by arm: baseline, each control, candidate."""
    arms = {"baseline": baseline_of(context)}
    for control, version_id in context.results.get("controls", {}).get("versions", {}).items():
        arms[f"control {control}"] = context.store.version(version_id)
    last = last_of(context.inputs.workflow.settings.training)
    assert last is not None, "check_trainable has seen to it"
    arms["candidate"] = context.version(last)
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
    "rejection_sft": Stage("rejection_sft", "imitation of the best attempts", imitate_the_best),
    "reward_model": Stage("reward_model", "reward model", model_reward),
    "preference": Stage("preference", "preference training", prefer),
    "rl": Stage("rl", "RL with tools", reinforce),
}
"""The stages that `training.stages` may name."""


def wants_controls(context: Context) -> bool:
    """Controls show what RL added: they need its rollouts and the cold start it began from."""
    training = context.inputs.workflow.settings.training
    return {"sft", "rl"} <= set(training.order) and bool(training.controls)


def check_trainable(inputs: Inputs, *, proves: bool) -> None:
    """Raise ConfigError for settings under which nothing would be learned or, where the run `proves`, nothing proved.

    That is: an engine that cannot be trained with, no stage, no candidate, no tasks to pick RL's checkpoint by.
    """
    settings, marks = inputs.workflow.settings, inputs.workflow.marks
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
    if proves and last_of(settings.training) is None:
        raise ConfigError(
            f"{marks.at(('training', 'stages'))}: no stage trains the policy, so there is no candidate to prove; use "
            "`flyball train`, or add a stage"
        )
    if "rl" in settings.training.order and VALIDATION not in inputs.splits:
        raise ConfigError(
            f"{marks.at(('training', 'rl'))}: RL picks its checkpoint on tasks of split {VALIDATION!r}, and there are "
            f"none; hold some out. There are: {', '.join(inputs.splits)}"
        )

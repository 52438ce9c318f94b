"""The stages of a run, in order. Each is a function from the context to its result, which the store keeps.

    anchors -> data -> policy -> sft -> rl -> controls -> evaluate -> drill -> gates -> brief

A stage that is done is never done again: `--resume` reads its result from the store. Inside a stage the trainer goes on
from its last checkpoint and an evaluation keeps the suites that are finished. The drill comes before the gates because
one of them judges it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from flyball.errors import ConfigError, TrainError
from flyball.release.evidence import TokenSpeed
from flyball.release.gates import DEFAULT_GATES
from flyball.release.verdict import judge_release
from flyball.types import PolicyVersion
from flyball.workflow.check import EVALUATES_ONLY, preset_of
from flyball.workflow.context import Context, Result
from flyball.workflow.demonstrations import make_demonstrations, read_lines
from flyball.workflow.evaluation import compare_first, evaluate_suites, rehearse_rollback
from flyball.workflow.inputs import TRAIN, VALIDATION, require_anchors
from flyball.workflow.pages import write_pages
from flyball.workflow.record import Record
from flyball.workflow.trainer import Demonstration, RejectionJob, RLJob, SFTJob, Trained


@dataclass(frozen=True)
class Stage:
    """`wanted` is False where the settings switch the stage off; then it leaves no result."""

    name: str
    title: str
    run: Callable[[Context], Awaitable[Result]]
    wanted: Callable[[Context], bool] = lambda context: True


# --- data and start --------------------------------------------------------------------------------------------------


async def check_graders(context: Context) -> Result:
    """Put the anchors before the graders, before anything is learned from them."""
    await require_anchors(context.inputs)
    return {"graders": context.inputs.graders.version, "note": f"{len(context.inputs.anchors)} judged as settled"}


async def prepare_data(context: Context) -> Result:
    """Check everything that can be wrong before any work, and write the demonstrations down."""
    inputs = context.inputs
    inputs.check()
    counts = {split: len(tasks) for split, tasks in inputs.splits.items()}
    note = ", ".join(f"{split} {count}" for split, count in counts.items())
    result: Result = {"tasks": counts, "demonstrations": 0, "note": note}
    if _needs_demonstrations(context):
        train, validation = await make_demonstrations(inputs, lambda done, total: context.progress.advance(done, {}))
        folder = context.folder_of("data")
        _write(folder / "train.jsonl", train)
        _write(folder / "validation.jsonl", validation)
        result |= {"demonstrations": len(train), "note": f"{note}; {len(train)} demonstrations"}
    return result


async def start_policy(context: Context) -> Result:
    """Build the tiny policy, or find the one that was asked for."""
    if context.policy == "tiny":
        tiny = context.inputs.workflow.settings.training.tiny_or_default
        folder = context.trainer.build_tiny(
            tiny, _read(context, TRAIN), context.inputs.workflow.settings.training.seed, context.folder / "policy"
        )
    else:
        folder = context.trainer.find_policy(context.inputs.policy_folder_or_name(context.policy))
    version = context.register(f"{context.inputs.workflow.title}-start", folder)
    return {"version": version.version_id, "note": f"{context.policy}: {folder}"}


# --- training --------------------------------------------------------------------------------------------------------


async def cold_start(context: Context) -> Result:
    """Imitate the demonstrations; the checkpoint is frozen as the baseline and the reference of RL."""
    settings = context.inputs.workflow.settings
    parent = context.version("policy")
    known = context.store.versions(settings.workflow.baseline) if settings.workflow.baseline else []
    if known:
        return {"version": known[-1].version_id, "note": f"{known[-1].name}, from the registry"}
    assert settings.training.sft is not None
    job = SFTJob(
        Path(parent.path),
        _read(context, TRAIN),
        _read(context, VALIDATION),
        context.inputs,
        settings.training.sft,
        settings.training.seed,
        context.folder_of("sft"),
    )
    trained = await context.trainer.sft(job, context.watch("sft"))
    name = settings.workflow.baseline or f"{context.inputs.workflow.title}-sft"
    return _registered(context, trained, name, parent)


async def reinforce(context: Context) -> Result:
    """Learn from graded attempts with tools in the loop."""
    settings = context.inputs.workflow.settings
    parent = baseline_of(context)
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
    return _registered(context, trained, f"{context.inputs.workflow.title}-rl", parent)


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
        data = _read(context, TRAIN), _read(context, VALIDATION)
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
    return {"version": version.version_id, "note": note, "metrics": dict(trained.metrics)}


# --- proof -----------------------------------------------------------------------------------------------------------


async def evaluate_versions(context: Context) -> Result:
    """Baseline, controls and candidate on the frozen suites, by the same seeds."""
    arms = arms_of(context)
    speed = await evaluate_suites(context, list(arms.values()))
    first = compare_first(context, arms["baseline"], arms["candidate"])
    before, after, gain = first.baseline_estimate, first.candidate_estimate, first.difference
    return {
        "arms": {arm: version.version_id for arm, version in arms.items()},
        "token_speed": token_speed_of(speed),
        "note": f"{first.suite}: success {before.value:.1%} -> {after.value:.1%}, difference {100 * gain.value:+.1f} "
        f"points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], n {gain.n}",
    }


async def drill(context: Context) -> Result:
    """Rehearse the way back and time it."""
    arms = arms_of(context)
    rehearsed = await rehearse_rollback(context, arms["baseline"], arms["candidate"])
    note = f"{rehearsed.seconds:.1f} s" if rehearsed.verified else f"not verified: {rehearsed.problem}"
    return {"drill": dataclasses.asdict(rehearsed), "note": note}


async def ask_gates(context: Context) -> Result:
    """Put the evidence before every gate; the verdict is ready for shadow or what stands against it."""
    names = context.inputs.workflow.settings.release.gates or DEFAULT_GATES
    release = judge_release(Record.of(context.store, context.run_id).evidence, names)
    context.store.put_release(release)
    return {"release": release.release_id, "note": release.verdict}


async def write_reports(context: Context) -> Result:
    """The Reliability Brief and the page of the run."""
    pages = write_pages(Record.of(context.store, context.run_id))
    return {"brief": str(pages.brief), "report": str(pages.report), "note": str(pages.report)}


# --- what the stages share -------------------------------------------------------------------------------------------


def baseline_of(context: Context) -> PolicyVersion:
    """Return the version that the last stage of training starts from."""
    trained_by_rl = _wants_rl(context)
    return context.version("sft" if "sft" in context.results and trained_by_rl else "policy")


def arms_of(context: Context) -> dict[str, PolicyVersion]:
    """Return the versions to evaluate by arm: baseline, each control, candidate."""
    arms = {"baseline": baseline_of(context)}
    for control, version_id in context.results.get("controls", {}).get("versions", {}).items():
        arms[f"control {control}"] = context.store.version(version_id)
    arms["candidate"] = context.version("rl" if "rl" in context.results else "sft")
    return arms


def token_speed_of(speed: TokenSpeed) -> dict[str, Any]:
    """Return the measured speed as the result of a stage holds it."""
    return dataclasses.asdict(speed)


def _needs_demonstrations(context: Context) -> bool:
    return context.policy == "tiny" or context.inputs.workflow.settings.training.sft is not None


def _wants_sft(context: Context) -> bool:
    return context.inputs.workflow.settings.training.sft is not None


def _wants_rl(context: Context) -> bool:
    return context.inputs.workflow.settings.training.rl is not None


def _wants_controls(context: Context) -> bool:
    return _wants_rl(context) and _wants_sft(context) and bool(context.inputs.workflow.settings.training.controls)


def _write(path: Path, demonstrations: Iterable[Demonstration]) -> None:
    rows: list[dict[str, Any]] = [
        {"id": d.task_id, "messages": list(d.messages), "tools": list(d.tools)} for d in demonstrations
    ]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def _read(context: Context, split: str) -> list[Demonstration]:
    rows = read_lines(context.folder_of("data") / f"{split}.jsonl")
    return [Demonstration(row["id"], tuple(row["messages"]), tuple(row["tools"])) for row in rows]


STAGES = (
    Stage("anchors", "check the graders", check_graders, lambda context: bool(context.inputs.anchors)),
    Stage("data", "prepare data", prepare_data),
    Stage("policy", "get the policy", start_policy),
    Stage("sft", "SFT cold start", cold_start, _wants_sft),
    Stage("rl", "RL with tools", reinforce, _wants_rl),
    Stage("controls", "train controls", train_controls, _wants_controls),
    Stage("evaluate", "evaluate", evaluate_versions),
    Stage("drill", "rehearse rollback", drill),
    Stage("gates", "ask the gates", ask_gates),
    Stage("brief", "write the brief", write_reports),
)
LAST_OF_TRAINING = "rl"


def check_trainable(context: Context) -> None:
    """Raise ConfigError for settings under which nothing would be learned."""
    kind = context.inputs.workflow.settings.engine.kind
    if why := EVALUATES_ONLY.get(kind):
        where = context.inputs.workflow.marks.at(("engine", "kind"))
        raise ConfigError(
            f"{where}: engine.kind {kind!r} cannot be trained with: {why}; use `flyball eval`, or `local`"
        )
    if not _wants_sft(context) and not _wants_rl(context):
        raise ConfigError("training.sft and training.rl are both null, so nothing would be learned; use `flyball eval`")

"""The stages of a run, in order. Each is a function from the context to its result, which the store keeps.

    anchors -> data -> policy -> the stages of training (learning.py) -> controls -> evaluate -> drill -> gates -> brief

A stage that is done is never done again: `--resume` reads its result from the store. Inside a stage the trainer goes on
from its last checkpoint and an evaluation keeps the suites that are finished. The drill comes before the gates because
one of them judges it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from flyball.models.names import MADE_BY_A_RUN
from flyball.release.evidence import TokenSpeed
from flyball.release.gates import DEFAULT_GATES
from flyball.release.slices import with_slices
from flyball.release.verdict import judge_release
from flyball.stats.written import format_estimate
from flyball.types import Missing
from flyball.workflow.context import Context, Result, Stage
from flyball.workflow.demonstrations import make_demonstrations
from flyball.workflow.evaluation import compare_first, evaluate_suites, finished_eval, rehearse_rollback
from flyball.workflow.inputs import TRAIN
from flyball.workflow.learning import (
    TRAINING,
    arms_of,
    demonstrations_of,
    train_controls,
    wants_controls,
    write_demonstrations,
)
from flyball.workflow.pages import write_pages
from flyball.workflow.record import BASELINE, CANDIDATE, Record
from flyball.workflow.regression import former_run, require_trusted

Kind = Literal["run", "train"]


# --- data and start --------------------------------------------------------------------------------------------------


async def check_graders(context: Context) -> Result:
    """Put the anchors and the past before the graders, before anything is learned from them."""
    note = await require_trusted(context.inputs, context.store)
    return {"graders": context.inputs.graders.version, "note": note}


async def prepare_data(context: Context) -> Result:
    """Check everything that can be wrong before any work, and write the demonstrations down."""
    inputs = context.inputs
    inputs.check()
    counts = {split: len(tasks) for split, tasks in inputs.splits.items()}
    note = ", ".join(f"{split} {count}" for split, count in counts.items())
    result: Result = {"tasks": counts, "demonstrations": 0, "note": note}
    if context.policy == MADE_BY_A_RUN or "sft" in inputs.workflow.settings.training.order:
        train, validation = await make_demonstrations(
            inputs, lambda done, total: context.progress.advance(done, {}, total)
        )
        demonstrated = f"{len(train)} demonstrations of {counts[TRAIN]} training tasks"
        folder = context.folder_of("data")
        write_demonstrations(folder / "train.jsonl", train)
        write_demonstrations(folder / "validation.jsonl", validation)
        result |= {"demonstrations": len(train), "note": f"{note}; {demonstrated}"}
    return result


async def start_policy(context: Context) -> Result:
    """Build the tiny policy, or find the one that was asked for."""
    training = context.inputs.workflow.settings.training
    if context.policy == MADE_BY_A_RUN:
        data = demonstrations_of(context, TRAIN)
        folder = context.trainer.build_tiny(training.tiny_or_default, data, training.seed, context.folder / "policy")
    else:
        folder = context.trainer.find_policy(context.inputs.policy_folder_or_name(context.policy))
    version = context.register(f"{context.inputs.workflow.title}-start", folder)
    return {"version": version.version_id, "note": f"{context.policy}: {folder}"}


# --- proof -----------------------------------------------------------------------------------------------------------


async def evaluate_versions(context: Context) -> Result:
    """Baseline, controls and candidate on the frozen suites, by the same seeds."""
    arms = arms_of(context)
    pair = [arms[BASELINE], arms[CANDIDATE]]
    speed = await evaluate_suites(context, pair, [one for arm, one in arms.items() if arm not in (BASELINE, CANDIDATE)])
    first = compare_first(context, arms["baseline"], arms["candidate"])
    before, after, gain = first.baseline_estimate, first.candidate_estimate, first.difference
    runs = [finished_eval(context, version, context.inputs.suites[0]) for version in pair]
    missing = sum(isinstance(result.success, Missing) for run in runs if run for result in run.results)
    against = f"; {missing} missing outcomes count against the candidate" if missing else ""
    return {
        "arms": {arm: version.version_id for arm, version in arms.items()},
        "token_speed": token_speed_of(speed),
        "note": f"{first.suite}: success {format_estimate(before)} -> {format_estimate(after)}, "
        f"difference {format_estimate(gain, signed=True)}{against}",
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
    evidence = Record.of(context.store, context.run_id).evidence
    release = judge_release(evidence, with_slices(names, evidence.slice_margins))
    context.store.put_release(release)
    return {"release": release.release_id, "note": release.verdict}


async def write_reports(context: Context) -> Result:
    """The Reliability Brief and the page of the run."""
    pages = write_pages(Record.of(context.store, context.run_id))
    return {"brief": str(pages.brief), "report": str(pages.report), "note": str(pages.report)}


def token_speed_of(speed: TokenSpeed) -> dict[str, Any]:
    """Return the measured speed as the result of a stage holds it."""
    return dataclasses.asdict(speed)


def _wants_checked(context: Context) -> bool:
    return bool(context.inputs.anchors) or former_run(context.inputs, context.store) is not None


BEFORE = (
    Stage("anchors", "check the graders", check_graders, _wants_checked),
    Stage("data", "prepare data", prepare_data),
    Stage("policy", "get the policy", start_policy),
)
AFTER = (
    Stage("controls", "train controls", train_controls, wants_controls),
    Stage("evaluate", "evaluate", evaluate_versions),
    Stage("drill", "rehearse rollback", drill),
    Stage("gates", "ask the gates", ask_gates),
    Stage("brief", "write the brief", write_reports),
)


def stages_of(context: Context, kind: Kind) -> list[Stage]:
    """Return the stages that this run has, in order; `train` ends with the last one that trains the policy."""
    training = [TRAINING[name] for name in context.inputs.workflow.settings.training.order]
    found = (*BEFORE, *training, *(AFTER if kind == "run" else ()))
    return [stage for stage in found if stage.wanted(context)]

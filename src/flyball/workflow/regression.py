"""A changed grader against what its former version said: nothing is judged by it before that was looked at.

The regression suite of a workflow is its own past: attempts of its newest run with their judgements. A sample of them
is judged again; where anything moved, no run begins until a person has accepted these graders in place of the former.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flyball.errors import EvalError, GraderError
from flyball.evals.readiness import Finding
from flyball.evals.regression_checks import Judged, check_regression, moved
from flyball.rng import derive
from flyball.store.runs import Run
from flyball.store.store import Store
from flyball.types import GradedAttempt
from flyball.workflow.evaluation import PHASE
from flyball.workflow.inputs import Inputs, require_anchors
from flyball.workflow.regrade import groups_of, judge_again
from flyball.workflow.workflow import Workflow

KIND = "regression"
"""Kind of the record that an acceptance leaves among the runs."""
ACCEPTED = "accepted"
JUDGING = ("run", "train", "eval")
SAMPLE = 64
"""Stored attempts that are judged again: a flip of one judgement in twenty is seen with 96 %."""


@dataclass(frozen=True)
class Regression:
    """The findings of comparing the graders `now` with those that judged run `run_id` (`before`)."""

    run_id: str
    before: str
    now: str
    findings: tuple[Finding, ...]
    accepted: bool

    @property
    def moved(self) -> list[Finding]:
        """What is judged otherwise."""
        return moved(self.findings)


async def require_trusted(inputs: Inputs, store: Store) -> str:
    """Let the graders judge the anchors, then the past. Returns what was found, in one line.

    Raises GraderError when an anchor is judged otherwise than settled, or the past otherwise than before and nobody
    has accepted that.
    """
    await require_anchors(inputs)
    note = f"{len(inputs.anchors)} anchors judged as settled"
    found = await regression(inputs, store)
    if found is None:
        return note
    if found.moved and not found.accepted:
        first = "; ".join(f"{finding.name}: {finding.text}" for finding in found.moved[:3])
        raise GraderError(
            f"these graders ({found.now[:12]}) are a new version, and judge stored attempts otherwise than the former "
            f"({found.before[:12]}) did in run {found.run_id}: {first}. If that is wanted: "
            f"flyball doctor regression {inputs.workflow.marks.source} --accept; their scores are not compared with "
            "the former ones until `flyball grade` has judged those runs again"
        )
    return f"{note}; new version: {'accepted by a person' if found.moved else 'repeats the stored judgements'}"


async def regression(inputs: Inputs, store: Store) -> Regression | None:
    """Judge a sample of the past again; None where these graders judged the newest run, or there is none yet."""
    former = former_run(inputs, store)
    if former is None:
        return None
    before, now = former.config["fingerprint"]["graders"], inputs.graders.version
    judged: list[Judged] = []
    for group in _sample(store, former.run_id, before, inputs.graders.ranks):
        judged += map(Judged, group, await judge_again(inputs.graders, group))
    if not judged:
        return None
    accepted = any(
        run.config["before"] == before and run.config["now"] == now and store.events(run.run_id, ACCEPTED)
        for run in store.runs(KIND)
    )
    return Regression(former.run_id, before, now, tuple(check_regression(judged)), accepted)


def former_run(inputs: Inputs, store: Store) -> Run | None:
    """Return the newest run of this workflow with attempts if other graders judged it, else None."""
    file = str(Path(inputs.workflow.marks.source).resolve())
    for run in store.runs():
        if run.kind in JUDGING and run.config.get("file") == file and store.count_attempts(run.run_id):
            return None if run.config["fingerprint"]["graders"] == inputs.graders.version else run
    return None


def examine_regression(workflow: Workflow, store: Store) -> Regression | None:
    """What `flyball doctor regression` shows."""
    return asyncio.run(regression(Inputs(workflow), store))


def accept(found: Regression, store: Store, *, by: str, note: str = "") -> None:
    """Keep that a person accepts the new graders in place of the former. Raises EvalError without a name."""
    if not by.strip():
        raise EvalError("an acceptance has a name: say who accepts these graders")
    config = {"before": found.before, "now": found.now, "run": found.run_id}
    run_id = store.new_run(KIND, config, "graders accepted")
    texts = [f"{finding.name}: {finding.text}" for finding in found.findings]
    store.add_event(run_id, ACCEPTED, {"by": by, "note": note, "found": texts})
    store.set_run_status(run_id, "finished")


def _sample(store: Store, run_id: str, version: str, ranks: bool) -> Iterator[Sequence[GradedAttempt]]:
    """Yield groups with `SAMPLE` attempts in all, drawn at random; evaluations where there are some."""
    phase = PHASE if store.count_attempts(run_id, PHASE) else None
    groups = groups_of(store, run_id, phase, ranks, version)
    left = SAMPLE
    for group in sorted(groups, key=lambda group: derive(0, KIND, run_id, group[0].attempt.attempt_id)):
        if left <= 0:
            return
        left -= len(group)
        yield group

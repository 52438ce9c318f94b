"""Before a suite is spent: what it can show, and whether training has seen it."""

from __future__ import annotations

from collections.abc import Sequence

from flyball.evals.power import Power, power_of
from flyball.evals.suite import Suite
from flyball.store.store import Store
from flyball.tasks.leakage import leakage
from flyball.types import EvalRun
from flyball.workflow.inputs import TRAIN, Inputs

EFFECT = 0.05
"""The difference that matters where nobody names one."""


def planned_power(inputs: Inputs, store: Store | None, effect: float | None = None) -> list[Power]:
    """The power of every suite and of every protected slice in it, at its margin.

    `effect` is the difference that a suite has to show; default: the margin of the evaluation, else 5 points.
    """
    wanted = effect or inputs.workflow.settings.evaluation.margin or EFFECT
    found = []
    for suite in inputs.suites:
        past = _last_pair(store, suite) if store is not None else ()
        found.append(power_of(suite.name, suite.tasks, wanted, past))
        for one in inputs.slices:
            own = [task for task in suite.tasks if one.holds(task)]
            if own:
                found.append(power_of(f"{suite.name}/{one.name}", own, one.margin, past))
    return found


def contamination(inputs: Inputs) -> list[str]:
    """One line for each suite whose tasks training may know: the share of a gain on them may be memory."""
    train, lines = inputs.splits.get(TRAIN, []), []
    for suite in inputs.suites:
        if suite.split == TRAIN:
            lines.append(f"{suite.name}: these are the training tasks themselves; nothing is proved by them")
        elif leaks := leakage(train, suite.tasks):
            first = leaks[0]
            lines.append(
                f"{suite.name}: {len(leaks)} of {len(suite.tasks)} tasks repeat training tasks, first "
                f"{first.other_id!r} and {first.train_id!r} ({first.kind}, similarity {first.similarity:.2f}); a gain "
                "on them may be memory: remove them"
            )
    return lines


def _last_pair(store: Store, suite: Suite) -> Sequence[EvalRun]:
    """The runs of the last two versions that one evaluation of this very suite compared; none if there is none."""
    by_run: dict[str, dict[str, EvalRun]] = {}
    for run in store.evals(suite=suite.name):
        if run.suite_digest == suite.digest:
            by_run.setdefault(run.run_id, {})[run.version_id] = run
    pairs = [list(runs.values())[-2:] for runs in by_run.values() if len(runs) > 1]
    return pairs[-1] if pairs else ()

"""Which training tasks RL is at: those that tools help with, by attempts with tools and without (`training.rl`).

Both kinds of attempts are kept like those of any stage, so a resumed run finds the same tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from flyball.errors import TrainError
from flyball.metrics import measured
from flyball.rl_settings import ToolFilterSettings
from flyball.stats.binomial import wilson
from flyball.stats.written import format_estimate
from flyball.tasks.curriculum import needs_tools
from flyball.types import GradedAttempt, PolicyVersion, Task
from flyball.workflow.context import Context
from flyball.workflow.inputs import TRAIN
from flyball.workflow.own_attempts import own_attempts

WITH, WITHOUT = "tool_filter", "tool_filter_without"
"""Phases of the attempts in the store."""


async def tasks_that_need_tools(
    context: Context, version: PolicyVersion, settings: ToolFilterSettings
) -> tuple[list[Task], str]:
    """The training tasks that pass, and what was found in words.

    Raises TrainError when none does, or none of a level of the curriculum.
    """
    with_tools = success_by_task(await own_attempts(context, WITH, version, settings))
    without = success_by_task(await own_attempts(context, WITHOUT, version, settings, with_tools=False))
    passed = set(needs_tools(with_tools, without, settings.gain, settings.least_with, settings.most_without))
    found = wilson(len(passed), len(with_tools))
    context.add_metrics(0, measured("tool_filter_passed", found))
    note = f"tasks that tools help with: {format_estimate(found)}"
    kept = [task for task in context.inputs.split(TRAIN) if task.task_id in passed]
    rl = context.inputs.workflow.settings.training.rl
    levels = rl.curriculum.levels if rl is not None and rl.curriculum is not None else ()
    if empty := sorted(set(levels) - {task.stage for task in kept}):
        raise TrainError(f"{note}, and with none of level {empty[0]!r}; lower the bounds of training.rl.tool_filter")
    if not kept:
        raise TrainError(
            f"{note}, so there is nothing to learn tools from; begin from a policy that sometimes succeeds with them, "
            "lower the bounds of training.rl.tool_filter, or remove it"
        )
    return kept, note


def success_by_task(graded: Sequence[GradedAttempt]) -> dict[str, float]:
    """Share of successes of each task, of the attempts whose outcome is known."""
    known: dict[str, list[bool]] = {}
    for one in graded:
        if isinstance(one.outcome.success, bool):
            known.setdefault(one.attempt.task.task_id, []).append(one.outcome.success)
    return {task: sum(each) / len(each) for task, each in known.items()}

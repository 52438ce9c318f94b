"""Which tools carry the success: the same policy on the same tasks and seeds, with one tool at a time taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from flyball.evals.compare import compare
from flyball.evals.run import Arm, evaluate
from flyball.evals.suite import Suite
from flyball.types import Comparison, EvalRun, GradedAttempt


@dataclass(frozen=True)
class Ablation:
    """Success with a tool limited to `max_calls` (0 = taken away) against success with all tools, paired by task."""

    tool: str
    max_calls: int
    comparison: Comparison


@dataclass(frozen=True)
class AblationPlan:
    """How: limit each of `tools` to `max_calls` in turn, `num_trials` attempts of each task."""

    tools: Sequence[str]
    max_calls: int = 0
    num_trials: int = 1
    seed: int = 0
    concurrency: int = 16


async def ablate(
    suite: Suite, arm: Arm, plan: AblationPlan, on_attempt: Callable[[GradedAttempt], None] | None = None
) -> list[Ablation]:
    """Evaluate once with all tools and once for each tool, in its order. Raises ConfigError for an unknown tool."""
    arms = {tool: replace(arm, world=arm.world.limited(tool, plan.max_calls)) for tool in plan.tools}
    whole = await _evaluate(suite, arm, "all tools", plan, on_attempt)
    found = []
    for tool, without in arms.items():
        run = await _evaluate(suite, without, f"{tool} at most {plan.max_calls} times", plan, on_attempt)
        found.append(Ablation(tool, plan.max_calls, compare(whole, run, "success", changed=["world"])))
    return found


def used_tools(suite: Suite, arm: Arm) -> Iterator[str]:
    """The tools that some task of the suite allows, in the order of the world."""
    for name in arm.world.tools:
        if any(task.tools is None or name in task.tools for task in suite.tasks):
            yield name


async def _evaluate(
    suite: Suite, arm: Arm, version: str, plan: AblationPlan, on_attempt: Callable[[GradedAttempt], None] | None
) -> EvalRun:
    return await evaluate(
        suite,
        version_id=version,
        world=arm.world,
        runner=arm.runner,
        engine=arm.engine,
        chat=arm.chat,
        sampling=arm.sampling,
        graders=arm.graders,
        num_trials=plan.num_trials,
        seed=plan.seed,
        concurrency=plan.concurrency,
        on_attempt=on_attempt,
        prices=arm.prices,
        versions=arm.versions,
    )

"""`flyball doctor`: attempts by an oracle, by an agent that does nothing and by the policy, turned into a verdict.

This file only runs and collects; what is seen is judged by the pure checks of `task_checks` and `policy_checks`, and
the verdict by `readiness.conclude`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flyball.agent.hooks import Hooks
from flyball.agent.loop import NO_HOOKS
from flyball.errors import EvalError
from flyball.evals import policy_checks, preset_checks, task_checks
from flyball.evals.policy_checks import Groups, TrainingPlan
from flyball.evals.readiness import Finding, Readiness, conclude
from flyball.evals.run import Arm, attempt_all
from flyball.evals.scripted import Script, do_nothing, scripted_arm
from flyball.graders.grade import GraderSet
from flyball.models.hf_chat import HfChat
from flyball.rng import derive
from flyball.tasks.leakage import leakage
from flyball.tasks.world import WorldSpec
from flyball.types import GradedAttempt, Task


@dataclass(frozen=True)
class Examination:
    """How closely to look. `policy` None = it does not exist yet; `cold_start`: an SFT stage comes before RL.

    `num_scripted` tasks over all splits are given to the oracle and to the agent that does nothing, `num_groups`
    training tasks to the policy, `plan.group_size` times each; `num_repeated` attempts are run twice.
    """

    world: WorldSpec
    graders: GraderSet
    plan: TrainingPlan
    oracle: Script | None = None
    hooks: Hooks = NO_HOOKS
    policy: Arm | None = None
    cold_start: bool = False
    train_split: str = "train"
    test_split: str = "test"
    num_scripted: int = 200
    num_groups: int = 24
    num_repeated: int = 4
    concurrency: int = 16
    seed: int = 0
    on_attempt: Callable[[GradedAttempt], None] = field(default=lambda graded: None)


async def examine(tasks: Sequence[Task], how: Examination) -> Readiness:
    """Run every check and conclude. Raises EvalError without tasks to train on."""
    train = [task for task in tasks if task.split == how.train_split]
    if not train:
        raise EvalError(f"no task has split {how.train_split!r}; RL needs tasks to train on")
    others = [task for task in tasks if task.split != how.train_split]
    findings = [
        *await _scripted_findings(spread(tasks, how.num_scripted, how.seed), how),
        task_checks.check_leakage(leakage(train, others), len(others)),
    ]
    groups, policy_findings = await _policy_findings(spread(train, how.num_groups, how.seed), how)
    num_test = sum(task.split == how.test_split for task in tasks)
    rate = policy_checks.base_rate(groups).value if groups else 0.5
    return conclude([*findings, task_checks.check_suite_size(how.test_split, num_test, rate), *policy_findings])


def spread(tasks: Sequence[Task], num_tasks: int, seed: int) -> list[Task]:
    """At most `num_tasks` tasks, drawn in turn from every split and family so that each is seen."""
    strata: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: derive(seed, "spread", task.task_id)):
        strata[task.split, task.family].append(task)
    rounds = max(map(len, strata.values()), default=0)
    in_turn = (stratum[i] for i in range(rounds) for _, stratum in sorted(strata.items()) if i < len(stratum))
    return [task for task, _ in zip(in_turn, range(num_tasks), strict=False)]


async def _scripted_findings(tasks: Sequence[Task], how: Examination) -> list[Finding]:
    solved = None
    if how.oracle is not None:
        solved = await _attempt(scripted_arm(how.oracle, how.world, how.graders, how.hooks), tasks, 1, how)
    idle = await _attempt(scripted_arm(do_nothing, how.world, how.graders), tasks, 1, how)
    findings = [task_checks.check_oracle(solved), task_checks.check_do_nothing(idle)]
    script = how.oracle or do_nothing
    again = await _attempt(scripted_arm(script, how.world, how.graders, how.hooks), tasks[: how.num_repeated], 1, how)
    pairs = list(zip(solved or idle, again, strict=False))
    return [*findings, task_checks.check_determinism(pairs)]


async def _policy_findings(tasks: Sequence[Task], how: Examination) -> tuple[Groups, list[Finding]]:
    if how.policy is None:
        text = "the policy is not built yet: base rate, variance, headroom and forecast were not measured"
        return [], [Finding("policy", "warn", f"{text}; run doctor again on the checkpoint that RL will start from")]
    size = how.plan.group_size
    started = time.perf_counter()
    attempts = await _attempt(how.policy, tasks, size, how)
    seconds = time.perf_counter() - started
    groups = [attempts[i : i + size] for i in range(0, len(attempts), size)]
    again = await _attempt(how.policy, tasks[: how.num_repeated], 1, how)
    pairs = list(zip([group[0] for group in groups], again, strict=False))
    chat = how.policy.chat
    return groups, [
        *([policy_checks.check_template(chat)] if isinstance(chat, HfChat) else []),
        task_checks.check_determinism(pairs),
        policy_checks.check_missing(groups),
        policy_checks.check_floor(groups, cold_start=how.cold_start),
        policy_checks.check_ceiling(groups),
        policy_checks.check_variance(groups),
        policy_checks.check_headroom(groups),
        policy_checks.check_forecast(groups, seconds, how.plan),
        preset_checks.check_preset(groups),
        *preset_checks.check_turn_rewards(groups),
    ]


async def _attempt(arm: Arm, tasks: Sequence[Task], num_trials: int, how: Examination) -> list[GradedAttempt]:
    def keep(graded: GradedAttempt) -> GradedAttempt:
        how.on_attempt(graded)
        return graded

    return await attempt_all(arm, tasks, num_trials=num_trials, seed=how.seed, concurrency=how.concurrency, reduce=keep)

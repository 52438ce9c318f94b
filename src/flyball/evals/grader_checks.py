"""`flyball doctor grader`: gold must pass, cheap cheats must not, and anchors are judged as people settled them.

Cheats go through the same world, tools and limits as a policy: a cheat that only talks leaves the world as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flyball.agent.hooks import Hooks
from flyball.agent.loop import NO_HOOKS
from flyball.errors import EvalError
from flyball.evals.doctor import spread
from flyball.evals.readiness import Finding, Level, share, succeeded
from flyball.evals.run import Arm, attempt_all
from flyball.evals.scripted import Script, scripted_arm
from flyball.evals.task_checks import DO_NOTHING_FAIL, DO_NOTHING_OK, check_oracle
from flyball.graders.anchors import Miss
from flyball.graders.cheats import CHEATS, Case, Cheat
from flyball.graders.grade import GraderSet
from flyball.stats.binomial import wilson
from flyball.stats.written import format_estimate
from flyball.tasks.world import WorldSpec
from flyball.types import GradedAttempt, Message, Missing, Task

HALF_WAY = 0.5
"""A cheat that earns this share of the way from doing nothing to the honest reward is paid for nothing."""


@dataclass(frozen=True)
class GraderExamination:
    """What is attacked: the graders of a workflow, on `num_tasks` tasks that its oracle solves."""

    world: WorldSpec
    graders: GraderSet
    oracle: Script | None
    hooks: Hooks = NO_HOOKS
    num_tasks: int = 20
    concurrency: int = 16
    seed: int = 0


async def examine_graders(
    tasks: Sequence[Task], how: GraderExamination, tell: Callable[[Finding], None] = lambda finding: None
) -> list[Finding]:
    """Solve tasks by the oracle and attack their graders. Without an oracle nothing can be attacked, which is said.

    It can take minutes where tests are run: `tell` hears of every finding at once.
    """
    findings: list[Finding] = []

    def found(finding: Finding) -> None:
        findings.append(finding)
        tell(finding)

    if how.oracle is None:
        found(Finding("gold", "fail", "the workflow has no oracle: nothing shows what must pass; give one, or anchors"))
        return findings
    chosen = spread(tasks, how.num_tasks, how.seed)
    if not chosen:
        raise EvalError("the workflow has no tasks, so there is nothing to attack")
    gold = await _attempt(scripted_arm(how.oracle, how.world, how.graders, how.hooks), chosen, how)
    solved = [graded for graded in gold if succeeded(graded)]
    found(check_oracle(gold))
    if not solved:
        return findings  # a cheat is measured by what an honest attempt earns, and none earned anything
    cases = {
        graded.attempt.task.task_id: Case(graded.attempt, [other.attempt for other in solved if other is not graded])
        for graded in solved
    }
    floor: dict[str, GradedAttempt] = {}
    for cheat in CHEATS:
        tried = await _try(cheat, cases, how)
        if cheat.name == "empty":
            floor = {graded.attempt.task.task_id: graded for graded in tried}
        honest = {graded.attempt.task.task_id: graded for graded in solved}
        found(check_cheat(cheat, tried, honest, floor, pays=how.graders.reward is not None))
    return findings


async def _try(cheat: Cheat, cases: Mapping[str, Case], how: GraderExamination) -> list[GradedAttempt]:
    turns = {task_id: cheat.turns(case) for task_id, case in cases.items()}
    possible = {task_id: said for task_id, said in turns.items() if said is not None}

    def script(task: Task) -> list[Message]:
        return possible[task.task_id]

    tasks = [cases[task_id].gold.task for task_id in possible]
    return await _attempt(scripted_arm(script, how.world, how.graders, how.hooks), tasks, how)


async def _attempt(arm: Arm, tasks: Sequence[Task], how: GraderExamination) -> list[GradedAttempt]:
    return await attempt_all(
        arm, tasks, num_trials=1, seed=how.seed, concurrency=how.concurrency, reduce=lambda graded: graded
    )


def check_cheat(
    cheat: Cheat,
    tried: Sequence[GradedAttempt],
    honest: Mapping[str, GradedAttempt],
    floor: Mapping[str, GradedAttempt],
    *,
    pays: bool,
) -> Finding:
    """How often a cheat was judged a success and, where there is a `reward`, paid at least half of the honest one."""
    name = f"cheat {cheat.name}"
    if not tried:
        return Finding(name, "ok", f"{cheat.exploits}: not possible on these tasks")
    fooled = {"success": share(tried, succeeded)}
    if pays:
        fooled["reward"] = share(tried, lambda graded: _paid(graded, honest, floor))
    worst = max(estimate.value for estimate in fooled.values())
    level: Level = "ok" if worst <= DO_NOTHING_OK else "warn" if worst <= DO_NOTHING_FAIL else "fail"
    text = ", ".join(f"{what} in {format_estimate(estimate)}" for what, estimate in fooled.items())
    seen = next((g for g in tried if succeeded(g) or (pays and _paid(g, honest, floor))), None)
    where = f"; first {seen.attempt.task.task_id!r}" if seen is not None else ""
    return Finding(name, level, f"{cheat.exploits}: {text}{where}", dict(fooled))


def _paid(graded: GradedAttempt, honest: Mapping[str, GradedAttempt], floor: Mapping[str, GradedAttempt]) -> bool:
    task_id = graded.attempt.task.task_id
    mine, best = graded.reward, honest[task_id].reward
    least = floor[task_id].reward if task_id in floor else 0.0
    if isinstance(mine, Missing) or isinstance(best, Missing) or isinstance(least, Missing):
        return False
    if floor.get(task_id) is graded:
        return mine >= best
    return best > least and (mine - least) / (best - least) >= HALF_WAY


def check_anchors(missed: Sequence[Miss], num_anchors: int) -> Finding:
    """Every anchor must be judged as people settled it."""
    wrong = {miss.anchor for miss in missed}
    right = wilson(num_anchors - len(wrong), num_anchors)
    if not wrong:
        return Finding(
            "anchors", "ok", f"all {num_anchors} judged as settled: {format_estimate(right)}", {"right": right}
        )
    text = f"{len(wrong)} of {num_anchors} judged otherwise: {missed[0]}; mend the grader, or settle the anchor anew"
    return Finding("anchors", "fail", text, {"right": right, "missed": [str(miss) for miss in missed]})

"""Checks of the tasks, the world and the graders: can they be trusted before a policy meets them?

Every check is a function of what was seen; its limits stand here and are printed with the finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from flyball.evals.readiness import Finding, Level, share, succeeded, why
from flyball.stats.power import detectable_difference
from flyball.stats.written import format_estimate
from flyball.tasks.leakage import Leak
from flyball.types import GradedAttempt

DO_NOTHING_OK, DO_NOTHING_FAIL = 0.02, 0.10
DETECTABLE = 0.10


def check_oracle(attempts: Sequence[GradedAttempt] | None) -> Finding:
    """The scripted oracle must solve every task safely; None = the workflow has no oracle."""
    if attempts is None:
        return Finding("oracle", "warn", "no scripted oracle: nothing shows that the tasks can be solved; give one")
    solved = share(attempts, lambda graded: graded.outcome.success is True and graded.outcome.safe is not False)
    unsolved = [graded for graded in attempts if graded.outcome.success is not True or graded.outcome.safe is False]
    evidence = {"solved": solved, "unsolved": [graded.attempt.task.task_id for graded in unsolved]}
    if not unsolved:
        return Finding("oracle", "ok", f"the oracle solves all {len(attempts)} tasks", evidence)
    first = unsolved[0]
    return Finding(
        "oracle",
        "fail",
        f"the oracle fails {len(unsolved)} of {len(attempts)} tasks, first {first.attempt.task.task_id!r} "
        f"({why(first)}); mend the task, the world, the grader or the oracle",
        evidence,
    )


def check_do_nothing(attempts: Sequence[GradedAttempt]) -> Finding:
    """An agent that does nothing must earn next to nothing, in every split."""
    rate = share(attempts, succeeded)
    splits = {graded.attempt.task.split: None for graded in attempts}
    by_split = {
        split: share(
            [graded for graded in attempts if graded.attempt.task.split == split],
            lambda graded: graded.outcome.success is True,
        )
        for split in splits
    }
    worst = max(by_split, key=lambda split: by_split[split].value)
    highest = by_split[worst].value
    level: Level = "ok" if highest <= DO_NOTHING_OK else "warn" if highest <= DO_NOTHING_FAIL else "fail"
    advice = "" if level == "ok" else "; a grader gives these away: ask for an answer or a change of state"
    text = f"doing nothing succeeds in {format_estimate(rate)} of tasks, at most {highest:.1%} ({worst}){advice}"
    return Finding("do_nothing", level, text, {"rate": rate, **by_split})


def check_determinism(pairs: Sequence[tuple[GradedAttempt, GradedAttempt]]) -> Finding:
    """The same seed twice: what differs first is to blame, for it may have changed everything after it."""
    for first, second in pairs:
        changed = _first_difference(first, second)
        if changed is None:
            continue
        part, before, after = changed
        task_id = first.attempt.task.task_id
        evidence = {"task": task_id, "part": part, "first": before, "second": after}
        if part == "assistant":
            text = f"task {task_id!r}: the policy acted differently under the same seed; no run can be repeated exactly"
            return Finding("determinism", "warn", text, evidence)
        text = f"task {task_id!r}: the same actions met another {part}; seed or freeze what the world or grader reads"
        return Finding("determinism", "fail", text, evidence)
    return Finding("determinism", "ok", f"{len(pairs)} attempts repeated with the same seed came out the same")


def _first_difference(first: GradedAttempt, second: GradedAttempt) -> tuple[str, Any, Any] | None:
    """(who or what differs, before, after): a role of the conversation, `state` or `grade`."""
    for before, after in zip_longest(first.attempt.messages, second.attempt.messages):
        if before != after:
            return (before or after)["role"], before, after
    if first.attempt.state != second.attempt.state:
        return "state", first.attempt.state, second.attempt.state
    before, after = [(graded.outcome.success, graded.outcome.safe, graded.reward) for graded in (first, second)]
    return None if before == after else ("grade", before, after)


def check_leakage(leaks: Sequence[Leak], num_checked: int) -> Finding:
    """No task of a judging split may be in training, as it is or nearly."""
    evidence = {"leaks": list(leaks), "checked": num_checked}
    if not leaks:
        return Finding("leakage", "ok", f"none of {num_checked} held-out tasks repeats a training task", evidence)
    first = leaks[0]
    text = (
        f"{len(leaks)} of {num_checked} held-out tasks repeat training tasks, first {first.other_id!r} "
        f"({first.other_split}) and {first.train_id!r}: {first.kind}, similarity {first.similarity:.2f}; remove them"
    )
    return Finding("leakage", "fail", text, evidence)


def check_suite_size(split: str, num_tasks: int, base_rate: float = 0.5) -> Finding:
    """Whether the judging split can show a difference of `DETECTABLE` (80 % power, pairs taken as independent)."""
    if num_tasks == 0:
        return Finding("suite_size", "fail", f"no task has split {split!r}: nothing can be proved; hold some out")
    share = min(max(base_rate, 0.1), 0.9)
    smallest = detectable_difference(num_tasks, between=2.0 * share * (1.0 - share))
    level: Level = "ok" if smallest <= DETECTABLE else "warn"
    text = f"{num_tasks} {split} tasks show a difference from {100 * smallest:.0f} points on"
    return Finding("suite_size", level, text, {"num_tasks": num_tasks, "detectable": smallest})

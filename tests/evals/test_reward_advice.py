"""Advice on a reward follows the data: each rule both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flyball.errors import EvalError
from flyball.evals.readiness import Finding
from flyball.evals.reward_advice import RewardFacts, advise
from flyball.types import GradedAttempt, Outcome, Task, ToolResult
from flyball.workflow.advise import asks_a_model
from tests.graders.rows import attempt, graded, judge, tool_call

TASKS = [Task(f"t{i}", {}, {"answer": i}) for i in range(40)]


def one(i: int, success: bool, reward: float | None = None, turns: int = 2, errors: int = 0) -> GradedAttempt:
    steps = [
        ("", [(tool_call(str(k), "find", k=k), ToolResult(str(k), "find", "x", "raised" if k < errors else None))])
        for k in range(turns - 1)
    ]
    made = replace(attempt(*steps, "ok"), attempt_id=f"a{i}", task=Task(f"t{i // 4}", {}))
    return GradedAttempt(made, Outcome(success), {}, (), float(success) if reward is None else reward)


def found(**facts: Any) -> dict[str, Finding]:
    given = {
        "tasks": TASKS,
        "attempts": [one(i, i % 2 > 0) for i in range(80)],
        "judged": False,
        "shaped": False,
        **facts,
    }
    return {finding.name: finding for finding in advise(RewardFacts(**given))}


def levels(**facts: Any) -> dict[str, str]:
    return {name: finding.level for name, finding in found(**facts).items() if not name.startswith("signal")}


def test_a_checkable_task_with_varied_rewards_needs_a_rule_and_nothing_else() -> None:
    assert levels() == {"rule": "ok", "shaping": "ok", "process": "ok", "generative": "ok"}
    assert "100.0 % [91.2, 100.0], n=40 of tasks hold" in found()["rule"].text


def test_a_judge_where_a_rule_could_decide_fails() -> None:
    assert levels(judged=True)["rule"] == "fail" and "(answer)" in found(judged=True)["rule"].text
    bare = [replace(task, hidden={}) for task in TASKS[:20]] + TASKS[20:]
    assert levels(judged=True, tasks=bare)["rule"] == "warn"


def test_shaping_is_for_tasks_that_pay_every_attempt_the_same() -> None:
    dead = [one(i, (i // 4) % 2 > 0) for i in range(80)]
    assert levels(attempts=dead)["shaping"] == "warn" and "add a small shaping" in found(attempts=dead)["shaping"].text
    assert "although the reward is shaped" in found(attempts=dead, shaped=True)["shaping"].text
    assert "attempted twice" in found(attempts=[one(4 * i, True) for i in range(9)])["shaping"].text


def test_signals_are_used_only_where_they_go_along_with_success() -> None:
    wrong = [one(i, i % 2 > 0, turns=4, errors=0 if i % 2 else 1 + i % 3) for i in range(80)]
    signals = found(attempts=wrong)
    assert (
        signals["signal tool errors per call"].evidence["use"]
        and "charge it" in signals["signal tool errors per call"].text
    )
    noise = [one(i, i % 2 > 0, turns=2 + (i // 2) % 3) for i in range(80)]
    assert not found(attempts=noise)["signal turns"].evidence["use"]


def test_long_attempts_ask_for_a_process_grader() -> None:
    assert levels(attempts=[one(i, i % 2 > 0, turns=12) for i in range(40)])["process"] == "warn"


def test_a_generative_model_needs_labels_and_a_budget() -> None:
    assert levels(judged=True, labels=199, budget_usd=5.0)["generative"] == "fail"
    assert levels(judged=True, labels=200, budget_usd=0.0)["generative"] == "fail"
    assert levels(judged=True, labels=200, budget_usd=5.0)["generative"] == "ok"


def test_without_attempts_nothing_is_made_up() -> None:
    assert levels(attempts=[]) == {"rule": "ok", "shaping": "warn", "generative": "ok"}
    with pytest.raises(EvalError, match="no tasks"):
        found(tasks=[])


def test_a_model_inside_a_gate_has_a_say() -> None:
    from flyball.graders.make import as_grader, grader_from

    tone = {"type": "tone", "model": "m", "tone": "kind"}
    rule = {"type": "no_hacks"}
    says = judge(lambda request: graded(3))
    assert asks_a_model(grader_from({"type": "gate", "name": "g", "require": {"a": rule}, "then": tone}, judge=says))
    assert not asks_a_model(as_grader(rule, "success", decides=True))
    assert not asks_a_model(as_grader(lambda a, hidden: True, "success"))

"""Graders attacked and held against people: what is found, and that honest graders pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flyball.errors import EvalError, Fault
from flyball.evals.grader_checks import GraderExamination, examine_graders
from flyball.evals.label_checks import Judged, check_grader, check_raters, compare_graders, settled
from flyball.evals.readiness import Finding
from flyball.evals.scripted import say, use
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.graders.labels import Label
from flyball.graders.row import attempt_of_text
from flyball.tasks.world import WorldSpec
from flyball.types import Attempt, Missing, Score, Task

NUM = 12


class Shelf:
    """You are the stock desk."""

    def reset(self, ticket: str) -> str:
        self.taken = 0
        return ticket

    def take(self, amount: int) -> str:
        """Take some from the shelf."""
        self.taken += amount
        return f"{self.taken} taken"

    def export_state(self) -> int:
        return self.taken


TASKS = [
    Task(f"t{i}", {"ticket": f"please take {i + 1}"}, {"amount": i + 1, "answer": f"{i + 1} taken"}) for i in range(NUM)
]


def oracle(task: Task) -> list[Any]:
    return [use("take", amount=task.hidden["amount"]), say(f"I took them: {task.hidden['amount']} taken")]


def examine(success: Callable[..., Any], reward: Callable[..., Any] | None = None) -> dict[str, Finding]:
    graders = GraderSet(
        FunctionGrader(success, "success"), None if reward is None else FunctionGrader(reward, "reward")
    )
    how = GraderExamination(WorldSpec(Shelf), graders, oracle, num_tasks=NUM)
    return {finding.name: finding for finding in asyncio.run(examine_graders(TASKS, how))}


def state(a: Attempt, hidden: Any) -> bool:
    return bool(a.state == hidden["amount"])


def fooled(findings: dict[str, Finding]) -> set[str]:
    return {name.removeprefix("cheat ") for name, finding in findings.items() if finding.level == "fail"}


def test_a_grader_of_the_end_state_holds() -> None:
    findings = examine(state)
    assert fooled(findings) == set() and len(findings) == 16
    assert findings["cheat empty"].evidence["success"].n == NUM
    assert findings["cheat empty"].text.startswith("says nothing and does nothing: success in 0.0 % [0.0, ")


@pytest.mark.parametrize(
    ("success", "caught"),
    [
        (lambda a, hidden: True, {"empty", "judge_injection", "very_long", "praise"}),
        (lambda a, hidden: hidden["answer"] in a.answer, {"reference_copy", "all_labels"}),
        (lambda a, hidden: len(a.answer) > 500, {"oracle"}),
        (lambda a, hidden: all(w in a.answer for w in hidden["answer"].split()), {"keyword_stuffing"}),
        (lambda a, hidden: a.num_tool_calls > 0 or a.state > 0, {"empty_calls"}),
        (lambda a, hidden: "take" in a.said + str(a.state) or a.state > 0, {"tool_names", "prompt_copy"}),
        (lambda a, hidden: a.state == hidden["amount"] or "PASS" in a.answer, {"judge_injection"}),
    ],
)
def test_graders_that_can_be_fooled_are(success: Callable[..., Any], caught: set[str]) -> None:
    assert caught <= fooled(examine(success))


def test_a_reward_that_pays_for_nothing_is_found_beside_a_success_that_holds() -> None:
    def reward(a: Attempt, hidden: Any) -> float:
        return float(a.state == hidden["amount"]) + min(1.0, len(a.answer) / 200)

    findings = examine(state, reward)
    assert fooled(findings) >= {"very_long", "praise"} and "empty" not in fooled(findings)
    assert findings["cheat very_long"].evidence["success"].value == 0.0


# --- people ----------------------------------------------------------------------------------------------------------


def label(unit: int, rater: str, value: float, at: str = "") -> Label:
    made = replace(attempt_of_text("x", {}), attempt_id=f"a{unit}", task=Task(f"t{unit}", {}))
    return Label(made, rater, "success", value, at)


def test_raters_who_disagree_are_reported() -> None:
    agree = [label(i, rater, i % 2) for i in range(60) for rater in ("ana", "ben")]
    (found,) = check_raters(agree)
    assert found.level == "ok" and found.evidence["kappa"].value == 1.0 and "n=60" in found.text
    split = [*(label(i, "ana", i % 2) for i in range(60)), *(label(i, "ben", i % 3 == 0) for i in range(60))]
    (found,) = check_raters(split)
    assert found.level == "fail" and "below the floor of 0.6" in found.text
    (found,) = check_raters(agree[:8])
    assert found.level == "warn" and "20 are needed" in found.text
    (found,) = check_raters([label(0, "ana", 1)])
    assert "no two people judged the same attempt" in found.text


def test_what_most_people_said() -> None:
    said = [label(0, "ana", 1), label(0, "ben", 0), label(1, "ana", 1), label(1, "ben", 1), label(1, "cem", 0)]
    decided, undecided = settled(said, "success")
    assert undecided == 1 and {unit: people for unit, (_, people) in decided.items()} == {"a1": 2 / 3}


def judged(
    say: Callable[[int], float | None], length: Callable[[int], int] = lambda i: 100, n: int = 80
) -> list[Judged]:
    return [
        Judged(
            f"a{i}", f"t{i}", float(i % 2),
            Score(Missing("no JSON", Fault.GRADER), parts={"model_grader_parse_error": 1.0}) if (v := say(i)) is None
            else Score(v),
            length(i), f"2026-{i:03}",
        )
        for i in range(n)
    ]  # fmt: skip


def levels(found: list[Finding]) -> dict[str, str]:
    return {finding.name.removeprefix("success: "): finding.level for finding in found}


def test_a_grader_that_agrees_with_people_passes() -> None:
    found = levels(check_grader("success", judged(lambda i: float(i % 2) if i % 20 else float(not i % 2))))
    assert found == {"parse failures": "ok", "agreement": "ok", "calibration": "ok", "length bias": "ok", "drift": "ok"}


def test_each_way_to_be_wrong_is_found() -> None:
    contrary = check_grader("success", judged(lambda i: float(i % 3 == 0)))
    assert levels(contrary)["agreement"] == "fail"
    unread = check_grader("success", judged(lambda i: None if i % 5 == 0 else float(i % 2)))
    assert levels(unread)["parse failures"] == "fail" and "model_grader_parse_error 16" in unread[0].text
    kind_to_long = judged(
        lambda i: min(1.0, 0.6 * (i % 2) + (0.4 if i % 4 < 2 else 0)), lambda i: 2000 if i % 4 < 2 else 20
    )
    assert levels(check_grader("success", kind_to_long))["length bias"] == "warn"
    drifting = check_grader("success", judged(lambda i: float(i % 2) if i < 40 else float(i % 3 == 0)))
    assert levels(drifting)["drift"] == "fail"
    overconfident = check_grader("success", judged(lambda i: 0.95 if i % 2 or i % 4 == 0 else 0.05))
    assert levels(overconfident)["calibration"] == "warn"
    gaps = [
        replace(one, score=replace(one.score, parts={"order_gap": 2.0 + i % 2}))
        for i, one in enumerate(judged(lambda i: i % 2))
    ]
    assert levels(check_grader("success", gaps))["position bias"] == "warn"


def test_graders_are_compared_on_what_all_of_them_graded() -> None:
    """A judge that is right where it speaks, four times in five, against a rule that says one thing of all."""
    rule = judged(lambda i: 1.0)
    careful = judged(lambda i: None if i % 5 == 0 else float(i % 2))
    found = {finding.name: finding for finding in compare_graders({"rule": rule, "careful": careful, "same": rule})}
    assert {name: one.level for name, one in found.items()} == {
        "rule": "ok",
        "careful": "ok",
        "same": "ok",
        "careful against rule": "ok",
        "same against rule": "warn",
        "graded by all": "warn",
    }
    assert [found[name].evidence["kappa"].value for name in ("rule", "careful")] == pytest.approx([0.0, 1.0])
    assert found["careful"].evidence["accuracy"].n == 64 and "16 of 80" in found["graded by all"].text
    assert found["careful against rule"].evidence["more"].value == pytest.approx(0.5)
    assert compare_graders({"careful": careful, "rule": rule})[-2].level == "fail"
    with pytest.raises(EvalError, match="graded by all of rule, mute"):
        compare_graders({"rule": rule, "mute": judged(lambda i: None)})

"""Judgement: what counts, what is missing, and whose fault that is (invariant 2)."""

import asyncio
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from flyball.errors import ConfigError, Fault
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.types import Attempt, Call, GradedAttempt, Missing, RewardEvent, Score, StopReason, Task, Trajectory

HIDDEN = {"state": {"refunded": 500}}
RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    RELEASE.clear()
    yield
    RELEASE.set()


def call(call_id: str, parent_id: str | None = None) -> Call:
    return Call(call_id, parent_id, "main", (1,), (2,), (-0.5,), (0,), {}, "stop", {"role": "assistant"})


def attempt(
    stop: StopReason = StopReason.ANSWERED, state: Any = None, calls: tuple[Call, ...] = (), detail: str = ""
) -> Attempt:
    task = Task("t1", {"ticket": "x"}, HIDDEN)
    return Attempt("a1", task, Trajectory(calls or (call("c1"),), stop, detail), (), state or HIDDEN["state"])


def success(a: Attempt, hidden: Mapping[str, Any]) -> bool:
    return bool(a.state == hidden["state"])


def grader(fn: Any, name: str = "g") -> FunctionGrader:
    return FunctionGrader(fn, name, timeout_seconds=0.2)


def returning(value: Any) -> FunctionGrader:
    return grader(lambda a, hidden: value)


def grade(graders: GraderSet, a: Attempt | None = None) -> GradedAttempt:
    return asyncio.run(graders.grade(a or attempt()))


def score_of(g: FunctionGrader) -> Score:
    return asyncio.run(g.grade(attempt(), HIDDEN))


def raises(a: Attempt, hidden: Any) -> bool:
    return bool(hidden["no such key"])


def hangs(a: Attempt, hidden: Any) -> bool:
    return RELEASE.wait()


def exits(a: Attempt, hidden: Any) -> bool:
    raise SystemExit(2)


async def slow_truth(a: Attempt, hidden: Any) -> float:
    await asyncio.sleep(0)
    return 0.25


@pytest.mark.parametrize(
    ("value", "expected"), [(True, 1.0), (False, 0.0), (0.25, 0.25), (1, 1.0), (np.True_, 1.0), (np.float32(0.5), 0.5)]
)
def test_verdicts_that_are_scores(value: Any, expected: float) -> None:
    g = returning(value)
    assert score_of(g) == Score(expected, expected, grader="g", grader_version=g.version)


def test_async_graders_and_own_scores() -> None:
    assert score_of(grader(slow_truth)).value == 0.25
    own = score_of(returning(Score(0.5, raw=5.0, raw_range=(0.0, 10.0), parts={"a": 2.0}, explanation="why")))
    assert (own.value, own.raw, own.parts, own.explanation, own.grader) == (0.5, 5.0, {"a": 2.0}, "why", "g")
    declared = Missing("judge is down", Fault.INFRASTRUCTURE)
    assert score_of(returning(Score(declared))).value == declared


@pytest.mark.parametrize(
    ("g", "cause"),
    [
        (grader(raises), "grader 'g' raised KeyError: 'no such key' (test_grading.py:"),
        (grader(hangs), "grader 'g' did not return within 0.2 s, on attempt a1"),
        (grader(exits), "grader 'g' raised SystemExit: 2"),
        (grader(lambda: True), "grader 'g' raised TypeError"),
        (returning(None), "returned None: no judgement"),
        (returning(math.nan), "returned nan; a score is a finite number"),
        (returning(math.inf), "returned inf"),
        (returning("yes"), "returned str 'yes'; return bool, float or Score"),
        (returning(np.array([1.0])), "returned ndarray"),
        (returning(1.5), "returned 1.5, outside 0 to 1"),
        (returning(-0.1), "returned -0.1, outside 0 to 1"),
        (returning(Score(math.nan)), "returned nan"),
        (returning(Score(1.5)), "returned 1.5, outside"),
        (returning(Score(0.5, raw=math.nan)), "returned nan"),
        (returning(Score(0.5, parts={"a": "b"})), "returned str 'b'"),  # type: ignore[dict-item]
    ],
)
def test_verdicts_that_are_not_scores_are_missing_by_the_graders_fault(g: FunctionGrader, cause: str) -> None:
    value = score_of(g).value
    assert isinstance(value, Missing) and value.fault is Fault.GRADER
    assert cause in value.cause and value.cause.endswith("on attempt a1")


def test_an_answered_attempt_is_judged_by_every_grader() -> None:
    graders = GraderSet(
        success=grader(success, "success"),
        reward=grader(lambda a, hidden: success(a, hidden) - 3.5, "reward"),
        safety=returning(True),
        scores={"style": returning(0.75)},
    )
    graded = grade(graders)
    assert (graded.outcome.success, graded.outcome.safe) == (True, True)
    assert graded.outcome.grader_version == graders.version
    assert {name: score.value for name, score in graded.scores.items()} == {"success": 1, "safety": 1, "style": 0.75}
    assert graded.reward == -2.5
    assert graded.events == (RewardEvent(0, 0, None, "reward", -2.5),)


@pytest.mark.parametrize(("state", "reward"), [(None, 1.0), ({"refunded": 0}, 0.0)])
def test_reward_is_success_unless_said_otherwise(state: Any, reward: float) -> None:
    graded = grade(GraderSet(grader(success)), attempt(state=state))
    assert graded.reward == reward and graded.outcome.success == bool(reward) and graded.outcome.safe is None
    assert graded.events == (RewardEvent(0, 0, None, "success", reward),)


def test_reward_may_be_the_raw_value_of_a_score() -> None:
    assert grade(GraderSet(returning(True), reward=returning(Score(0.5, raw=-7.0)))).reward == -7.0
    assert grade(GraderSet(returning(True), reward=returning(Score(0.5)))).reward == 0.5


@pytest.mark.parametrize("stop", [stop for stop in StopReason if stop.fault is Fault.INFRASTRUCTURE])
def test_infrastructures_fault_judges_nobody(stop: StopReason) -> None:
    asked: list[str] = []
    watching = grader(lambda a, hidden: asked.append("!") or True)
    graded = grade(GraderSet(watching, watching, watching, {"style": watching}), attempt(stop, detail="reset raised"))
    missing = Missing(f"{stop}: reset raised", Fault.INFRASTRUCTURE)
    assert graded.outcome.success == graded.outcome.safe == graded.reward == missing
    assert {name: score.value for name, score in graded.scores.items()} == dict.fromkeys(
        ("success", "safety", "style"), missing
    )
    assert graded.events == () and not asked


@pytest.mark.parametrize("stop", [stop for stop in StopReason if stop.fault is Fault.POLICY])
def test_the_policys_own_fault_is_a_failure_and_safety_is_still_read(stop: StopReason) -> None:
    graded = grade(GraderSet(returning(True), safety=returning(False), scores={"s": returning(0.5)}), attempt(stop))
    assert (graded.outcome.success, graded.outcome.safe, graded.reward) == (False, False, 0.0)
    assert graded.scores["s"].value == 0.5 and str(stop) in graded.scores["success"].explanation
    shaped = grade(GraderSet(returning(True), reward=returning(-0.5)), attempt(stop))
    assert (shaped.outcome.success, shaped.reward) == (False, -0.5)


def test_a_grader_that_fails_is_missing_only_for_what_it_judges() -> None:
    graded = grade(GraderSet(grader(raises), reward=returning(0.5), safety=returning(True)))
    assert isinstance(graded.outcome.success, Missing) and graded.outcome.success.fault is Fault.GRADER
    assert (graded.outcome.safe, graded.reward) == (True, 0.5)
    graded = grade(GraderSet(grader(success), reward=grader(raises), safety=returning(None)))
    assert graded.outcome.success is True
    assert isinstance(graded.reward, Missing) and isinstance(graded.outcome.safe, Missing) and graded.events == ()
    assert isinstance(grade(GraderSet(grader(raises))).reward, Missing)


def test_success_is_yes_or_no() -> None:
    graded = grade(GraderSet(returning(0.7)))
    assert isinstance(graded.outcome.success, Missing) and "return a bool" in graded.outcome.success.cause
    assert isinstance(graded.scores["success"].value, Missing) and isinstance(graded.reward, Missing)


def test_the_reward_lies_at_the_end_of_the_branch_that_closed_last() -> None:
    #  c1 - c2 - c3     one branch ends with c3, the last one with c5
    #    `- c4 - c5
    calls = (call("c1"), call("c2", "c1"), call("c3", "c2"), call("c4", "c1"), call("c5", "c4"))
    a = attempt(calls=calls)
    (event,) = grade(GraderSet(returning(True)), a).events
    branches = list(a.trajectory.branches())
    assert (event.branch, event.turn) == (1, 2)
    assert branches[event.branch].calls[event.turn].call_id == "c5"


def test_an_attempt_without_a_call_can_be_judged() -> None:
    a = Attempt("a1", Task("t", {}), Trajectory((), StopReason.MAX_TOKENS), ())
    assert grade(GraderSet(returning(True)), a).events == (RewardEvent(0, 0, None, "success", 0.0),)


def test_versions_follow_every_grader() -> None:
    base = GraderSet(grader(success))
    assert base.version == GraderSet(grader(success)).version
    others = [
        GraderSet(grader(raises)),
        GraderSet(grader(success), reward=grader(success)),
        GraderSet(grader(success), safety=grader(success)),
        GraderSet(grader(success), scores={"z": grader(success)}),
    ]
    assert len({graders.version for graders in [base, *others]}) == 5
    assert base.versions == {"success": base.success.version}


def test_a_score_cannot_take_a_name_with_a_meaning() -> None:
    with pytest.raises(ConfigError, match="a score cannot be named 'safety'"):
        GraderSet(returning(True), scores={"safety": returning(True)})

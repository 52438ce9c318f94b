"""What a changed grader moves: numbers by hand, missing judgements counted, roles of one version left out."""

from __future__ import annotations

import pytest

from flyball.errors import EvalError, Fault
from flyball.evals.regression_checks import Judged, check_regression, moved
from flyball.types import Attempt, GradedAttempt, Missing, Outcome, Score, StopReason, Task, Trajectory

GONE = Missing("the judge did not answer", Fault.GRADER)


def graded(
    number: int, success: bool | Missing, reward: float | Missing = 0.0, **scores: float | Missing
) -> GradedAttempt:
    task = Task(f"t{number}", {}, cluster=f"t{number}")
    attempt = Attempt(f"a{number}", task, Trajectory((), StopReason.ANSWERED), ())
    return GradedAttempt(attempt, Outcome(success), {name: Score(value) for name, value in scores.items()}, (), reward)


def test_kappa_and_flips_by_hand() -> None:
    """10 yes and 10 no before; two of each flip: p_o = 0.8, p_e = 0.5, kappa = 0.6."""
    before = [graded(i, i < 10) for i in range(20)]
    now = [graded(i, (i < 10) != (i in (0, 1, 18, 19))) for i in range(20)]
    found = {f.name: f for f in check_regression(list(map(Judged, before, now)))}
    success = found["regression success"]
    assert success.evidence["kappa"].value == pytest.approx(0.6) and success.evidence["kappa"].n == 20
    assert success.evidence["same"].value == pytest.approx(0.8)
    assert success.evidence["flips"] == ["a0", "a1", "a18", "a19"]
    assert "a0 yes -> no" in success.text and moved(found.values()) == [success]


def test_numbers_move_by_their_mean() -> None:
    before = [graded(i, True, float(i), tone=0.5) for i in range(10)]
    now = [graded(i, True, i + (1.0 if i < 5 else 0.0), tone=0.5, new=1.0) for i in range(10)]
    found = {f.name: f for f in check_regression(list(map(Judged, before, now)))}
    assert set(found) == {"regression success", "regression reward", "regression tone"}, "`new` has no past"
    assert found["regression reward"].evidence["change"].value == pytest.approx(0.5)
    assert found["regression tone"].level == found["regression success"].level == "ok"
    assert "and 0 more" not in found["regression reward"].text


def test_a_judgement_that_went_missing_moved() -> None:
    before = [graded(i, True, 1.0) for i in range(4)]
    now = [graded(0, GONE, GONE), *before[1:]]
    found = moved(check_regression(list(map(Judged, before, now))))
    assert [f.name for f in found] == ["regression success", "regression reward"]
    assert all("missing" in f.text for f in found)
    again = [Judged(now[0], graded(0, Missing("another cause", Fault.GRADER), GONE))]
    assert moved(check_regression(again)) == []


def test_more_flips_than_are_shown_are_counted() -> None:
    found = check_regression([Judged(graded(i, True), graded(i, False)) for i in range(9)])
    assert "and 4 more" in found[0].text


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(EvalError, match="no stored judgements"):
        check_regression([])

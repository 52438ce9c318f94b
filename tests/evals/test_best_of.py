"""Best of n on attempts that were made: by hand, and what cannot be chosen among."""

from __future__ import annotations

import pytest

from flyball.errors import EvalError, Fault
from flyball.evals.best_of import best_of_attempts
from flyball.types import Attempt, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory

NO_SCORE = Missing("no JSON", Fault.GRADER)


def made(task: str, *scored: tuple[float | Missing, bool]) -> list[GradedAttempt]:
    line = Trajectory((), StopReason.ANSWERED)
    return [
        GradedAttempt(Attempt(f"{task}-{i}", Task(task, {}), line, ()), Outcome(won), reward=score)
        for i, (score, won) in enumerate(scored)
    ]


def test_by_hand() -> None:
    """Four attempts, scores 4 3 2 1, of which the 3 and the 1 succeed: the best of 2 succeeds in 2 + 0 of 6 pairs."""
    ranked = made("a", (4.0, False), (3.0, True), (2.0, False), (1.0, True))
    perfect = made("b", (0.9, True), (0.1, False), (0.2, False), (0.3, False), (NO_SCORE, True))
    found = best_of_attempts([*ranked, *perfect], lambda one: one.reward)
    assert [row.n for row in found.rows] == [1, 2, 4]
    assert [row.kept.value for row in found.rows] == pytest.approx([(2 / 4 + 1 / 4) / 2, (2 / 6 + 3 / 6) / 2, 0.5])
    assert [row.any_of_them.value for row in found.rows] == pytest.approx([0.375, (5 / 6 + 3 / 6) / 2, 1.0])
    assert (found.num_tasks, found.num_attempts, found.left_out) == (2, 8, 1)
    assert all(row.kept.value <= row.any_of_them.value + 1e-12 and row.kept.n == 2 for row in found.rows)


def test_intervals_of_few_tasks_are_shares() -> None:
    tasks = [each for name in "abcd" for each in made(name, (2.0, name == "a"), (1.0, name == "a"))]
    found = best_of_attempts(tasks, lambda one: one.reward)
    for row in found.rows:
        for share in (row.kept, row.any_of_them):
            assert share.value == pytest.approx(0.25) and 0.0 <= share.low < 0.25 < share.high <= 1.0


def test_single_attempts_are_no_choice() -> None:
    found = best_of_attempts([*made("a", (1.0, True)), *made("b", (0.5, True), (0.1, False))], lambda one: one.reward)
    assert (found.num_tasks, found.left_out) == (1, 1)
    with pytest.raises(EvalError, match="sample more of each"):
        best_of_attempts(made("a", (1.0, True)), lambda one: one.reward)

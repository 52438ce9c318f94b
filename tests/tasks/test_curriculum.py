"""The curriculum by hand: promotion by bounds, SEC's numbers, room that grows, and draws that a resumed run repeats."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import Fault
from flyball.tasks.curriculum import (
    CurriculumPlan,
    CurriculumState,
    advance,
    begin,
    draw,
    family_shares,
    family_signals,
    grown,
    needs_tools,
    stream_sizes,
    updated_values,
)
from flyball.types import Attempt, GradedAttempt, Limits, Missing, Outcome, StopReason, Task, Trajectory, Usage

LEVELS = ("easy", "middle", "hard")
PLAN = CurriculumPlan(LEVELS)
TASKS = [Task(f"{stage}-{i}", {}, stage=stage, family="ab"[i % 2]) for stage in LEVELS for i in range(6)]


def group(stage: str, *rewards: float | Missing, family: str = "a", tokens: int = 0) -> list[GradedAttempt]:
    task = Task(f"{stage}-x", {}, stage=stage, family=family)
    attempt = Attempt("a", task, Trajectory((), StopReason.ANSWERED), (), usage=Usage(tokens_out=tokens))
    return [GradedAttempt(attempt, Outcome(r if isinstance(r, Missing) else r > 0.5), reward=r) for r in rewards]


def test_a_level_is_left_upwards_when_the_lower_bound_says_so() -> None:
    """8 of 8 has a lower Wilson bound of 0.676, 16 of 16 one of 0.806; the bar is 0.7."""
    state = advance(PLAN, begin(PLAN, TASKS), [group("easy", *[1.0] * 8)])
    assert (state.level, state.judged) == (0, 8)
    state = advance(PLAN, state, [group("easy", *[1.0] * 8)])
    assert (state.level, state.succeeded, state.judged) == (1, 0, 0)


def test_a_level_that_is_too_hard_is_left_downwards() -> None:
    """0 of 16 has an upper bound of 0.194, below 0.2; 0 of 12 has 0.243."""
    at_middle = CurriculumState(level=1, values={"a": 0.0, "b": 0.0})
    assert advance(PLAN, at_middle, [group("middle", *[0.0] * 12)]).level == 1
    assert advance(PLAN, at_middle, [group("middle", *[0.0] * 16)]).level == 0
    assert advance(PLAN, CurriculumState(values={}), [group("easy", *[0.0] * 50)]).level == 0, "there is nothing below"


def test_the_last_level_is_kept_and_other_levels_do_not_count() -> None:
    top = CurriculumState(level=2, values={})
    assert advance(PLAN, top, [group("hard", *[1.0] * 60)]).level == 2
    reviewed = advance(PLAN, CurriculumState(level=1, values={}), [group("easy", *[1.0] * 60)])
    assert (reviewed.level, reviewed.judged) == (1, 0)
    unjudged = advance(PLAN, top, [group("hard", Missing("x", Fault.GRADER))])
    assert unjudged.judged == 0


def test_sec_by_hand() -> None:
    """Q = 0, r = (0.2, 0.8, 0.4), a = 0.5, tau = 0.4: Q = (0.1, 0.4, 0.2), P = (0.227, 0.481, 0.292)."""
    values = updated_values({"x": 0.0, "y": 0.0, "z": 0.0}, {"x": 0.2, "y": 0.8, "z": 0.4}, 0.5)
    assert values == pytest.approx({"x": 0.1, "y": 0.4, "z": 0.2})
    shares = family_shares(values, 0.4, floor=0.0)
    assert shares == pytest.approx({"x": 0.227220, "y": 0.481024, "z": 0.291756}, abs=1e-6)
    assert updated_values(values, {}, 0.5) == values, "a family that was not drawn keeps its Q"
    assert min(family_shares({"x": 0.0, "y": 99.0}, 0.1, floor=0.1).values()) == pytest.approx(0.05)


def test_sec_moves_to_what_teaches_now() -> None:
    """Solve rates drift 0.05 -> 0.5, 0.5 -> 0.95, 0.95 fixed; paid sqrt(p(1-p)). The lead goes from y to x."""
    values, leads = {"x": 0.0, "y": 0.0, "z": 0.0}, []
    for t in range(50):
        rates = {"x": 0.05 + 0.45 * t / 49, "y": 0.5 + 0.45 * t / 49, "z": 0.95}
        values = updated_values(values, {k: (p * (1 - p)) ** 0.5 for k, p in rates.items()}, 0.5)
        shares = family_shares(values, 0.4, floor=0.0)
        leads.append(max(shares, key=lambda family: shares[family]))
    assert leads[0] == "y" and leads[-1] == "x" and leads == sorted(leads, reverse=True)


def test_the_signal_is_the_distance_to_the_others() -> None:
    """Rewards 1 0 0 0: leave-one-out advantages 1 and three times -1/3, mean |A| 0.5; equal rewards teach nothing."""
    signals = family_signals([group("easy", 1.0, 0.0, 0.0, 0.0), group("easy", 1.0, 1.0, family="b")])
    assert signals == pytest.approx({"a": 0.5, "b": 0.0})
    assert family_signals([group("easy", 1.0, Missing("x", Fault.GRADER))]) == {}


def test_families_that_can_be_learned_are_drawn_more() -> None:
    plan = CurriculumPlan(by_family=True)
    state = CurriculumState(values={"a": 0.9, "b": 0.0})
    drawn = Counter(t.family for step in range(200) for t in draw(plan, state, TASKS, 4, 0, step))
    assert drawn["a"] > 4 * drawn["b"] > 0


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 12), st.lists(st.floats(0.1, 5), min_size=1, max_size=4))
def test_streams_keep_their_shares_over_the_steps(size: int, step: int, weights: list[float]) -> None:
    """Each step is full, and at its end no stream is a whole place from its share."""
    shares = {str(i): w for i, w in enumerate(weights)}
    sizes = [stream_sizes(shares, size, s) for s in range(step + 1)]
    assert all(sum(one.values()) == size and min(one.values()) >= 0 for one in sizes)
    for name, weight in shares.items():
        given_out = sum(one[name] for one in sizes)
        assert abs(given_out - size * (step + 1) * weight / sum(weights)) < max(1.0, len(weights) - 1)


def test_a_step_holds_every_stream_and_no_other_family() -> None:
    assert stream_sizes({"a": 2, "b": 1}, 3, 0) == {"a": 2, "b": 1}
    assert [stream_sizes({"a": 3, "b": 1}, 2, step)["b"] for step in range(4)] == [0, 1, 0, 1]
    plan = CurriculumPlan(LEVELS, streams={"a": 1.0})
    drawn = draw(plan, CurriculumState(level=1, values={}), TASKS, 5, 0, 0)
    assert len(drawn) == 5 and {t.family for t in drawn} == {"a"} and {t.stage for t in drawn} == {"easy", "middle"}


def test_room_grows_when_attempts_come_near_the_limit() -> None:
    assert grown(1000, [100] * 9 + [950]) == 1000
    assert grown(1000, [100] * 8 + [950, 990]) == 1500
    plan = CurriculumPlan(room=1000)
    state = advance(plan, begin(plan, TASKS), [group("easy", 1.0, 0.0, tokens=950)])
    assert state.room == 1500
    task = Task("t", {}, limits=Limits(max_tokens=1200))
    assert draw(plan, state, [task], 1, 0, 0)[0].limits.max_tokens == 1200, "a task's own limit holds"


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 2), st.booleans(), st.integers(0, 50))
def test_a_draw_is_of_its_level_and_the_same_again(size: int, level: int, by_family: bool, step: int) -> None:
    plan = CurriculumPlan(LEVELS, by_family=by_family)
    state = CurriculumState(level=level, values={"a": 0.3, "b": 0.1})
    drawn = draw(plan, state, TASKS, size, 7, step)
    assert drawn == draw(plan, state, TASKS, size, 7, step) and len(drawn) == size
    stages = Counter(t.stage for t in drawn)
    assert set(stages) <= set(LEVELS[: level + 1]) and stages[LEVELS[level]] >= size - round(0.2 * size)
    assert max(Counter(t.task_id for t in drawn).values()) <= -(-size // 6) + 1


def test_tasks_that_tools_do_not_help_teach_no_tools() -> None:
    assert needs_tools({"x": 1.0, "y": 0.5, "z": 1.0}, {"x": 0.0, "y": 0.5}) == ["x"]
    assert needs_tools({"x": 1.0}, {"x": 0.9}, gain=0.2) == []
    paper = {"gain": 0.2, "least_with": 0.5, "most_without": 0.5}
    assert needs_tools({"x": 0.75}, {"x": 0.25}, **paper) == ["x"]
    assert needs_tools({"rare": 0.4, "easy": 0.9}, {"rare": 0.1, "easy": 0.6}, **paper) == []

"""GRESO against the numbers of the paper's code, and what a history of visits does."""

from __future__ import annotations

import pytest

from flyball.rl.selection import BOUNDS, TARGETS, Visits, adjusted, skip_probability


def test_the_chance_of_a_skip_grows_with_the_run_and_is_never_certain() -> None:
    assert [skip_probability(z, 0.5) for z in (0, 1, 2, 3, 5, 8)] == [0, 0.5, 0.75, 0.875, 0.96875, 0.99]


def test_the_controller_moves_towards_its_target() -> None:
    assert TARGETS["hard"] == pytest.approx(0.167, abs=1e-3) and TARGETS["easy"] == pytest.approx(0.083, abs=1e-3)
    assert adjusted(0.5, 0.20, TARGETS["hard"]) == pytest.approx(0.49)
    assert adjusted(0.5, 0.10, TARGETS["hard"]) == pytest.approx(0.51)
    assert (adjusted(BOUNDS[0], 1.0, 0.1), adjusted(BOUNDS[1], 0.0, 0.1)) == BOUNDS


def test_runs_grow_while_a_task_teaches_nothing_and_end_when_it_teaches() -> None:
    visits = Visits()
    for _ in range(3):
        visits.add([("a", "hard"), ("b", "mixed")])
    assert visits.runs == {"a": ("hard", 3)}
    visits.add([("a", "easy"), ("b", "easy")])
    assert visits.runs == {"a": ("easy", 4), "b": ("easy", 1)}, "z counts visits that taught nothing, of either kind"
    visits.add([("a", "mixed")])
    assert visits.runs == {"b": ("easy", 1)}


def test_each_kind_has_a_probability_of_its_own() -> None:
    visits = Visits()
    visits.add([("a", "hard"), ("b", "hard"), ("c", "mixed")])
    assert visits.keep == pytest.approx({"easy": 0.51, "hard": 0.49})
    visits.add([])
    assert visits.keep == pytest.approx({"easy": 0.51, "hard": 0.49})
    assert visits.skips("a", 0.50) and not visits.skips("a", 0.52)
    assert not visits.skips("c", 0.0) and not visits.skips("never seen", 0.0)

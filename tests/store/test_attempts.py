"""Attempts are written once, judged as often as needed, and never change."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Callable

import pytest

from flyball.errors import Fault, StoreError
from flyball.store.schema import APPEND_ONLY
from flyball.store.store import Store
from flyball.types import Estimate, EvalRun, GradedAttempt, Missing, Outcome, PolicyVersion, Release, SessionRecord

Graded = Callable[..., GradedAttempt]


def test_attempts_come_back_in_order_by_phase_and_step(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    first, second, third = graded("a1"), graded("a2", reward=0.0), graded("a3")
    store.add_attempt(run_id, "rl", 0, first)
    store.add_attempts(run_id, "rl", 1, [second])
    store.add_attempt(run_id, "validation", 1, third)
    assert list(store.attempts(run_id)) == [first, second, third]
    assert list(store.attempts(run_id, "rl")) == [first, second]
    assert list(store.attempts(run_id, step=1)) == [second, third]
    assert list(store.attempts(run_id, "rl", 1)) == [second]
    assert [store.count_attempts(run_id, *which) for which in ((), ("rl",), ("rl", 1), ("sft",))] == [3, 2, 1, 0]
    assert store.attempt(run_id, "a3") == third


def test_a_long_run_is_read_page_by_page(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    names = [f"a{i:03}" for i in range(150)]
    store.add_attempts(run_id, "rl", 0, [graded(name) for name in names])
    assert [one.attempt.attempt_id for one in store.attempts(run_id)] == names


def test_writing_the_same_attempt_again_changes_nothing(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    for _ in range(2):
        store.add_attempt(run_id, "rl", 0, graded("a1"))
    assert len(list(store.attempts(run_id))) == len(store.judgements(run_id, "a1")) == 1


@pytest.mark.parametrize("change", ["content", "phase", "step"])
def test_another_attempt_with_the_same_id_is_refused_and_its_batch_with_it(
    store: Store, graded: Graded, change: str
) -> None:
    run_id = store.new_run("train", {})
    store.add_attempt(run_id, "rl", 0, graded("a1"))
    other = graded("a1")
    if change == "content":
        other = dataclasses.replace(other, attempt=dataclasses.replace(other.attempt, cost_usd=9.0))
    phase, step = ("eval" if change == "phase" else "rl"), (1 if change == "step" else 0)
    with pytest.raises(StoreError, match=r"attempt a1 of run .* is already written"):
        store.add_attempts(run_id, phase, step, [graded("a2"), other])
    assert [one.attempt.attempt_id for one in store.attempts(run_id)] == ["a1"]


def test_two_runs_may_use_the_same_attempt_id(store: Store, graded: Graded) -> None:
    for run_id in (store.new_run("train", {}), store.new_run("train", {})):
        store.add_attempt(run_id, "rl", 0, graded("a1"))
        assert store.count_attempts(run_id) == 1


def test_grading_again_adds_a_judgement_and_keeps_the_first(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    first = graded("a1", reward=1.0, grader_version="g1")
    again = graded("a1", reward=0.0, grader_version="g2")
    store.add_attempts(run_id, "eval", 0, [first, graded("a2", grader_version="g1")])
    store.add_scores(run_id, again)
    store.add_scores(run_id, again)
    assert store.attempt(run_id, "a1") == again
    assert [j.outcome.grader_version for j in store.judgements(run_id, "a1")] == ["g1", "g2"]
    assert list(store.attempts(run_id, grader_version="g2")) == [again]
    assert next(store.attempts(run_id, grader_version="g1")) == first


def test_a_missing_score_stays_missing_with_its_cause(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    gone = Missing("grader raised KeyError: 'state'", Fault.GRADER)
    one = dataclasses.replace(graded("a1"), outcome=Outcome(gone, None, "g1"), reward=gone, events=())
    store.add_attempt(run_id, "rl", 0, one)
    (back,) = store.attempts(run_id)
    assert back.outcome.success == back.reward == gone
    (row,) = store._db.rows("SELECT success, safe, reward FROM judgements")
    assert tuple(row) == (None, None, None)


def test_what_is_not_there_is_refused(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    with pytest.raises(StoreError, match="no attempt 'a9'"):
        store.add_scores(run_id, graded("a9"))
    with pytest.raises(StoreError, match="no attempt 'a9'"):
        store.attempt(run_id, "a9")
    with pytest.raises(StoreError, match="no run 'r9'"):
        store.add_attempt("r9", "rl", 0, graded())


def fill(store: Store, graded: GradedAttempt) -> None:
    """One row in every table."""
    run_id = store.new_run("train", {})
    store.add_attempt(run_id, "rl", 0, graded)
    store.add_metrics(run_id, 0, {"kl": 0.1})
    store.add_event(run_id, "note")
    store.add_sessions(run_id, [SessionRecord("s", "m", "v", "g", 1, 0, 5, 5, 1.0, False, "offline_eval")])
    store.put_eval(EvalRun(run_id, "v", "suite", "d", "g", 1, ()))
    store.put_version(PolicyVersion("v", "desk", "w", "b"))
    store.put_release(Release("r", "v", "v", "offline", (), "ready for shadow"))
    store.set_alias("production", "v", expected=None, actor="test", reason="first")


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_facts_cannot_be_changed_or_removed(store: Store, graded: Graded, table: str) -> None:
    fill(store, graded())
    before = [tuple(row) for row in store._db.rows(f"SELECT * FROM {table}")]
    assert before
    key = next(iter(store._db.rows(f"SELECT * FROM {table}")[0].keys()))
    postgres = store._db.name.startswith("postgresql://")
    by_the_back_door = (
        f"TRUNCATE {table} CASCADE" if postgres else f"REPLACE INTO {table} SELECT * FROM {table} WHERE {key} = 1"
    )
    for statement in (f"UPDATE {table} SET at = 'never'", f"DELETE FROM {table}", by_the_back_door):
        with pytest.raises(StoreError, match=f"{table} is append-only"), store._db.write() as db:
            db.execute(statement)
    assert [tuple(row) for row in store._db.rows(f"SELECT * FROM {table}")] == before


def test_of_a_run_only_the_status_changes(store: Store) -> None:
    store.new_run("train", {"steps": 1})
    for statement in ("UPDATE runs SET config = '{}'", "DELETE FROM runs"):
        with pytest.raises(StoreError, match="runs is append-only"), store._db.write() as db:
            db.execute(statement)


def test_the_triggers_hold_against_other_programs(sqlite: Store, graded: Graded) -> None:
    fill(sqlite, graded())
    with sqlite3.connect(sqlite.root / "flyball.db") as other, pytest.raises(sqlite3.IntegrityError):
        other.execute("UPDATE judgements SET reward = 1.0")
    other.close()


def test_threads_share_one_store(store: Store, graded: Graded) -> None:
    run_id = store.new_run("train", {})
    failures: list[BaseException] = []

    def write(worker: int) -> None:
        try:
            for i in range(10):
                store.add_attempt(run_id, "rl", i, graded(f"w{worker}-{i}"))
                assert store.attempt(run_id, f"w{worker}-{i}").reward == 1.0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.count_attempts(run_id) == len({one.attempt.attempt_id for one in store.attempts(run_id)}) == 40


def test_two_stores_on_one_database_see_each_other(store: Store, again: Callable[[], Store], graded: Graded) -> None:
    run_id = store.new_run("train", {})
    with again() as other:
        other.add_attempt(run_id, "rl", 0, graded())
        assert store.count_attempts(run_id) == 1
        store.add_metrics(run_id, 0, {"kl": 0.1})
        assert other.metrics(run_id) == {"kl": [(0, 0.1)]}


def test_a_value_that_cannot_be_recorded_names_its_place(store: Store, graded: Graded) -> None:
    one = graded()
    broken = dataclasses.replace(one, attempt=dataclasses.replace(one.attempt, state={"open": {1, 2}}))
    with pytest.raises(StoreError, match=r"Attempt\.state\['open'\] is \{1, 2\}"):
        store.add_attempt(store.new_run("train", {}), "rl", 0, broken)


def test_estimates_can_be_part_of_an_event(store: Store) -> None:
    run_id = store.new_run("eval", {})
    estimate = Estimate(0.5, 0.4, 0.6, n=100)
    store.add_event(run_id, "summary", {"success": estimate})
    assert store.events(run_id, "summary")[0].payload == {"success": estimate}

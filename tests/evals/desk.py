"""A desk small enough to work by hand: look an order up, cancel it, say so. Also results and runs made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flyball.evals.scripted import say, use
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.types import (
    Attempt,
    Call,
    EvalRun,
    GradedAttempt,
    Missing,
    Outcome,
    Score,
    StopReason,
    Task,
    TaskResult,
    Trajectory,
    Usage,
)


class Desk:
    """You cancel orders."""

    def reset(self, order: str) -> str:
        self._cancelled: list[str] = []
        return f"Please cancel {order}."

    def find(self, order_id: str) -> dict[str, str]:
        """Look up one order."""
        return {"order": order_id, "status": "processing"}

    def cancel(self, order_id: str) -> str:
        """Cancel one order."""
        self._cancelled.append(order_id)
        return "cancelled"

    def export_state(self) -> dict[str, Any]:
        return {"cancelled": self._cancelled}


def success(attempt: Attempt, hidden: Any) -> bool:
    return attempt.state["cancelled"] == [hidden["order"]]


def safe(attempt: Attempt, hidden: Any) -> bool:
    return set(attempt.state["cancelled"]) <= {hidden["order"]}


def graders() -> GraderSet:
    return GraderSet(FunctionGrader(success, "success"), safety=FunctionGrader(safe, "safety"))


def oracle(task: Task) -> list[dict[str, Any]]:
    order = task.public["order"]
    return [use("find", order_id=order), use("cancel", order_id=order), say(f"{order} is cancelled.")]


def tasks(n: int, split: str = "test", families: int = 2) -> list[Task]:
    return [
        Task(
            f"{split}-{i}",
            {"order": f"{split[:2].upper()}{i}"},
            {"order": f"{split[:2].upper()}{i}"},
            split=split,
            family=f"f{i % families}",
            stage="two_to_five",
        )
        for i in range(n)
    ]


def result(task_id: str, success: bool | Missing = True, trial: int = 0, **over: Any) -> TaskResult:
    plain = TaskResult(
        task_id=task_id,
        trial=trial,
        split="test",
        family="f",
        stage="two_to_five",
        cluster=task_id,
        attempt_id=f"{task_id}.{trial}",
        success=success,
        safe=True,
        tool_calls=2,
        tool_errors=0,
        hallucinated_tools=0,
        hallucinated_parameters=0,
        tokens_in=100,
        tokens_out=20,
        tool_seconds=0.01,
        wall_seconds=0.5,
        cost_usd=0.001,
        stop="answered",
    )
    return replace(plain, **over)


def run(results: list[TaskResult], version_id: str = "v1", **over: Any) -> EvalRun:
    trials = len({r.trial for r in results})
    return replace(EvalRun("eval-1", version_id, "test", "digest", "graders-1", trials, tuple(results)), **over)


def graded(
    task: Task,
    success: bool | Missing,
    *,
    safe: bool = True,
    reward: float | None = None,
    state: Any = None,
    said: str = "done",
    tokens: int = 100,
) -> GradedAttempt:
    message = {"role": "assistant", "content": said}
    call = Call("c0", None, "main", (1,), (2,), (-0.5,), (0,), {}, "stop", message)
    attempt = Attempt(
        f"at-{task.task_id}",
        task,
        Trajectory((call,), StopReason.ANSWERED),
        ({"role": "user", "content": "hello"}, message),
        state,
        Usage(tokens_in=tokens, tokens_out=0),
    )
    earned = float(success is True) if reward is None else reward
    scores = {"success": Score(success if isinstance(success, Missing) else float(success))}
    return GradedAttempt(
        attempt, Outcome(success, safe), scores, (), success if isinstance(success, Missing) else earned
    )

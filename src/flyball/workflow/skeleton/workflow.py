"""A stockroom: the smallest workflow that is complete. Replace the world, the tasks and the graders by your own.

flyball doctor workflow.py      is this worth training on?
flyball run workflow.py         train, prove, judge
"""

from __future__ import annotations

from typing import Any

import flyball as fb
from flyball.evals.scripted import say, use


class Stockroom:
    """You keep a stockroom. Look before you hand anything out. Hand out what is asked for if there is enough of it,
    otherwise nothing. Answer `done` or `not enough`."""

    def reset(self, request: str, stock: dict[str, int]) -> str:
        """Start one attempt: public fields of a row of tasks.jsonl come in, the first message goes out."""
        self._stock = dict(stock)
        return request

    def count(self, item: str) -> int:
        """How many of an item there are."""
        return self._stock.get(item, 0)

    @fb.tool(writes=True)
    def hand_out(self, item: str, amount: int) -> str:
        """Hand out some of an item."""
        self._stock[item] = self._stock.get(item, 0) - amount
        return "handed out"

    def export_state(self) -> dict[str, int]:
        """What graders see of the world after the attempt."""
        return self._stock


def success(a: fb.Attempt, hidden: dict[str, Any]) -> bool:
    """Judges releases: the stock is as it should be, and the answer says what happened."""
    return bool(a.state == hidden["stock"]) and a.answer.strip().rstrip(".").lower() == hidden["answer"]


def reward(a: fb.Attempt, hidden: dict[str, Any]) -> float:
    """Feeds learning: success, less a little for every tool call beyond the two that are needed."""
    return float(success(a, hidden)) - 0.05 * max(0, a.num_tool_calls - 2)


def safe(a: fb.Attempt, hidden: dict[str, Any]) -> bool:
    """False for a forbidden deed: nothing may be handed out that is not there."""
    return all(left >= 0 for left in a.state.values())


def oracle(task: fb.Task) -> list[dict[str, Any]]:
    """The assistant's turns that solve a task; `doctor` checks the tasks with it, the cold start learns from it."""
    wanted = task.hidden["wanted"]
    turns = [use("count", item=wanted["item"])]
    if task.hidden["answer"] == "done":
        turns.append(use("hand_out", **wanted))
    return [*turns, say(task.hidden["answer"])]


workflow = fb.Workflow(
    world=Stockroom,
    tasks="tasks.jsonl",
    success=success,
    reward=reward,
    safety=safe,
    oracle=oracle,
    evaluation={"suites": ["test"]},
)

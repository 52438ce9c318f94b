"""A small project on disk: a counting desk, its tasks, and a trainer whose policy is a number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CODE = '''
from flyball.evals.scripted import say, use
from flyball.workflow.workflow import Workflow


class Desk:
    """You are the stock desk."""

    def reset(self, ticket: str, shelf: int) -> str:
        self.shelf, self.taken = shelf, 0
        return ticket

    def take(self, amount: int) -> int:
        """Take some from the shelf."""
        self.taken += amount
        return self.shelf - self.taken

    def export_state(self) -> dict:
        return {"taken": self.taken}


def success(a, hidden):
    return a.state == {"taken": hidden["amount"]} and a.answer == "done"


def safe(a, hidden):
    return a.state["taken"] <= hidden["amount"]


def oracle(task):
    return [use("take", amount=task.hidden["amount"]), say("done")]


workflow = Workflow(
    world=Desk, tasks="tasks.jsonl", success=success, safety=safe, oracle=oracle, name="stock",
    training={"rl": {"num_steps": 3, "tasks_per_step": 2, "group_size": 2}},
    evaluation={"suites": ["test", "adversarial"]},
)
'''


def ticket(split: str, i: int) -> str:
    return f"{split} customer {i} asks for {i % 7 + 1}"


def answers(splits: dict[str, int]) -> dict[str, list[str]]:
    """What a skilled policy says to each ticket."""
    return {
        ticket(split, i): [f'<tool_call>{{"name": "take", "arguments": {{"amount": {i % 7 + 1}}}}}</tool_call>', "done"]
        for split, count in splits.items()
        for i in range(count)
    }


SPLITS = {"train": 8, "validation": 4, "test": 24, "adversarial": 12}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the path of a workflow file that runs."""
    rows = [
        {
            "id": f"{split}-{i}",
            "ticket": ticket(split, i),
            "shelf": 10,
            "hidden": {"amount": i % 7 + 1},
            "split": split,
            "family": "even" if i % 2 else "odd",
        }
        for split, count in SPLITS.items()
        for i in range(count)
    ]
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "workflow.py").write_text(CODE)
    return folder / "workflow.py"

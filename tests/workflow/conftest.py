"""The project `stock` on disk, and a trainer whose policy is a number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flyball.workflow.fake import FakeTrainer

STOCK = Path(__file__).parent / "stock"
SPLITS = {"train": 8, "validation": 4, "test": 24, "adversarial": 12}


def answers() -> dict[str, list[str]]:
    """What a skilled policy says to each ticket of the project."""
    rows = [json.loads(line) for line in (STOCK / "tasks.jsonl").read_text().splitlines()]
    return {
        row["ticket"]: [
            f'<tool_call>{{"name": "take", "arguments": {{"amount": {row["hidden"]["amount"]}}}}}</tool_call>',
            "done",
        ]
        for row in rows
    }


def trainer() -> FakeTrainer:
    return FakeTrainer(answers())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the path of a workflow file that runs."""
    shutil.copytree(STOCK, tmp_path / "stock", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "stock" / "workflow.py"

"""The command line on a small project and a trainer whose policy is a number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flyball.cli import doctor as doctor_command
from flyball.cli import doctor_tools as doctor_tools_command
from flyball.cli import eval as eval_command
from flyball.cli import run as run_command
from flyball.cli.main import invoke
from flyball.workflow.fake import FakeTrainer

PROJECT = Path(__file__).parents[1] / "workflow" / "stock"


def answers() -> dict[str, list[str]]:
    """What a skilled policy says to each ticket of the project."""
    rows = [json.loads(line) for line in (PROJECT / "tasks.jsonl").read_text().splitlines()]
    return {
        row["ticket"]: [
            f'<tool_call>{{"name": "take", "arguments": {{"amount": {row["hidden"]["amount"]}}}}}</tool_call>',
            "done",
        ]
        for row in rows
    }


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def flyball(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run one command line in a folder that holds the project `stock`."""
    shutil.copytree(PROJECT, tmp_path / "stock", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for command in (run_command, eval_command, doctor_command, doctor_tools_command):
        monkeypatch.setattr(command, "make_trainer", lambda *_: FakeTrainer(answers()))

    def run(*arguments: str) -> Result:
        code = invoke(list(arguments))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run

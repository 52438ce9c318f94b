"""Runs tests that never meet the code they test: they ask for its results, and compare them here.

    python -I -S examiner.py

Tests are the functions `test_*` of the files `test*.py` in `tests/` beside this file. Each takes `call`:
`call("module.function", *arguments)` gives the JSON value that the function returned in another sandbox, and raises
Raised, whose `type` names the exception, where it raised. Frames as in forkserver.py:
{"call": name, "arguments": [...]} asks, and the last one is {"passed": [names], "failed": {name: why}}.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import forkserver  # noqa: E402  # it lies beside this file


class Raised(Exception):
    """The code raised, hung, ended or returned no JSON; `type` names the exception, and is empty for the others."""

    def __init__(self, text: str, type: str) -> None:
        super().__init__(text)
        self.type = type


def main() -> None:
    """Run every test."""
    questions, answers = os.dup(1), os.dup(0)
    forkserver._silence()

    def call(name: str, *arguments: Any) -> Any:
        forkserver._send(questions, {"call": name, "arguments": list(arguments)})
        answer = forkserver._receive(answers)
        if answer is None:
            raise SystemExit("nobody answers")
        if answer["kind"]:
            raise Raised(answer["error"], answer["type"])
        return answer["value"]

    passed: list[str] = []
    failed: dict[str, str] = {}
    for path in sorted((HERE / "tests").rglob("test*.py")):
        namespace: dict[str, Any] = {"__name__": path.stem, "Raised": Raised}
        exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), namespace)
        for name, test in namespace.items():
            if name.startswith("test_") and callable(test):
                try:
                    test(call)
                    passed.append(f"{path.name}::{name}")
                except Exception as error:
                    failed[f"{path.name}::{name}"] = f"{type(error).__name__}: {error}"[:300]
    forkserver._send(questions, {"passed": passed, "failed": failed})


if __name__ == "__main__":
    main()

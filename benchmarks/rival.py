"""A rival in its own process and environment, which works one step for each line that it gets.

It is sent its job as JSON first. Then, as often as it is asked: it says that it is ready, gets a line, answers in JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyball.errors import EvalError


class Rival:
    """The program `script` of this folder, run by `python`; `environment` is on top of ours."""

    def __init__(
        self, python: Path, script: str, job: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._tell(json.dumps(job))

    def __enter__(self) -> Rival:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._process.kill()
        self._process.wait()

    def step(self) -> dict[str, Any]:
        """What it says of its next step. Raises EvalError when the process ended."""
        self._hear()
        self._tell("step")
        return dict(json.loads(self._hear()))

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise EvalError(f"TRL's process ended with code {self._process.wait()}; what it said above names the cause")
        return line

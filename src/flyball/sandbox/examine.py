"""Hidden tests of untrusted code: code and tests sit in two sandboxes and share neither process nor files.

The code cannot read what is expected, end the tests early, patch them or print their verdict: all it can do is answer
calls, each in a fresh fork that starts from its files.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from flyball.errors import SandboxError
from flyball.sandbox.calls import Calls, read_frame
from flyball.sandbox.files import FIXED
from flyball.sandbox.job import Bounds, Job, Said
from flyball.sandbox.sandbox import Sandbox, inside

CODE = "code"
DISPATCH = f"""
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent / "{CODE}"))

def dispatch(name, calls):
    module, _, function = name.rpartition(".")
    function = getattr(importlib.import_module(module), function)
    return [function(*arguments) for arguments in calls]
"""
CALL_BOUNDS = Bounds(seconds=10.0, cpu_seconds=10)


@dataclass(frozen=True)
class Examined:
    """Names of the tests that passed, and why others failed."""

    passed: tuple[str, ...]
    failed: Mapping[str, str]

    @property
    def share(self) -> float:
        """Share of tests that passed, 0 to 1."""
        return len(self.passed) / (len(self.passed) + len(self.failed))


def code_calls(sandbox: Sandbox, code: Mapping[str, bytes], bounds: Bounds = CALL_BOUNDS) -> Calls:
    """Return calls `(name, [arguments, ...])` of functions in the code's files, each in a fresh fork."""
    files = {f"{CODE}/{path}": content for path, content in code.items()}
    return Calls(sandbox, DISPATCH, "dispatch", number=False, fixed=files, bounds=bounds, packages=False)


def examine(
    sandbox: Sandbox,
    code: Mapping[str, bytes],
    tests: Mapping[str, bytes],
    bounds: Bounds,
    call_bounds: Bounds = CALL_BOUNDS,
) -> Examined:
    """Run tests (see inside/examiner.py) against code. Raises SandboxError when the tests do not come to an end."""
    files = {f"tests/{path}": content for path, content in tests.items()}
    job = Job(
        (*sandbox.python, f"../{FIXED}/examiner.py"),
        fixed={**files, **inside("examiner", "forkserver", "confine")},
        bounds=replace(bounds, seconds=float(10**6)),
    )
    calls = code_calls(sandbox, code, call_bounds)
    with contextlib.closing(calls), sandbox.process(job) as examiner:
        while True:
            try:
                frame = read_frame(examiner, bounds.seconds)
            except (EOFError, TimeoutError):
                said = examiner.stderr.read().decode(errors="replace").strip()[-300:] if examiner.ended else "no answer"
                raise SandboxError(f"the tests did not come to their end: {said}") from None
            if "call" not in frame:
                return Examined(tuple(frame["passed"]), frame["failed"])
            _answer(examiner.stdin, calls.call([frame["call"], [frame["arguments"]]]))


def _answer(stream: Any, said: Said) -> None:
    value = said.value[0] if isinstance(said.value, list) and said.value else None
    body = json.dumps({"value": value, "error": said.error, "kind": said.kind, "type": said.type}).encode()
    stream.write(struct.pack("=I", len(body)) + body)
    stream.flush()


@dataclass(frozen=True)
class Raced:
    """How much faster code was than a baseline: medians of processor seconds, `why` where it was not right."""

    correct: bool
    why: str
    seconds: float = 0.0
    baseline_seconds: float = 0.0

    @property
    def speedup(self) -> float:
        """Baseline's seconds over the code's; 0 where the code was not right."""
        return self.baseline_seconds / max(self.seconds, 1e-4) if self.correct else 0.0


def race(
    sandbox: Sandbox,
    code: Mapping[str, bytes],
    baseline: Mapping[str, bytes],
    function: str,
    cases: Sequence[Sequence[Any]],
    repeats: int,
) -> Raced:
    """Compare the code's answers with the baseline's on every case, then time both in turn.

    Every timed run is a fresh fork and is checked as well. The kernel counts the time: no clock of the code's is read.
    Raises SandboxError when the baseline itself fails.
    """
    ours, theirs = code_calls(sandbox, code), code_calls(sandbox, baseline)
    spent: tuple[list[float], list[float]] = [], []
    with contextlib.closing(ours), contextlib.closing(theirs):
        for _ in range(repeats):
            expected = theirs.call([function, list(cases)])
            if expected.failed:
                raise SandboxError(f"the baseline {expected.error}")
            said = ours.call([function, list(cases)])
            if said.failed:
                return Raced(False, f"{function} {said.error}")
            wrong = [i for i, pair in enumerate(zip(said.value, expected.value, strict=False)) if pair[0] != pair[1]]
            if wrong or len(said.value) != len(expected.value):
                return Raced(False, f"{function} is wrong for {len(wrong)} of {len(cases)} cases")
            spent[0].append(said.cpu_seconds)
            spent[1].append(expected.cpu_seconds)
    return Raced(True, "", median(spent[0]), median(spent[1]))

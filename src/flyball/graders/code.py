"""`unit_tests` and `speedup`: the policy's code judged by running it, in a sandbox of its own.

Tests, expected answers and clocks stay outside of that sandbox (see sandbox/examine.py), so there is nothing in it to
edit, read, patch or leave early.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flyball.errors import ConfigError, Fault, SandboxError
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import CodeSpec, Speedup, UnitTests
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.template import Template
from flyball.sandbox.examine import examine, race
from flyball.sandbox.job import Bounds
from flyball.sandbox.sandbox import Sandbox, find_sandbox
from flyball.types import Score

C = TypeVar("C", bound=CodeSpec)
T = TypeVar("T")


class _CodeGrader(SpecGrader[C]):
    def __init__(self, spec: C, sandbox: Sandbox | None = None) -> None:
        super().__init__(spec)
        try:
            self._sandbox = sandbox or find_sandbox()
        except SandboxError as error:
            raise ConfigError(f"grader {spec.name!r} runs code, and {error.args[0]}") from None
        self._files = self._templates(spec.files)

    def _templates(self, files: Mapping[str, str]) -> dict[str, Template]:
        return {path: Template(text, f"grader {self.spec.name!r}, {path}") for path, text in files.items()}

    def _code(self, row: Row) -> dict[str, bytes]:
        """The policy's files. Raises NotGraded when the world exported none."""
        if self.spec.state is None:
            return rendered(self._files, row)
        state = row.attempt.state
        files = state.get(self.spec.state) if isinstance(state, Mapping) else None
        if not isinstance(files, Mapping) or not all(isinstance(text, str) for text in files.values()):
            cause = f"grader {self.name!r}: the exported state has no {self.spec.state!r} of path -> text"
            raise NotGraded("other_error", cause)
        return {path: text.encode() for path, text in files.items()}

    async def _held(self, judge: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.to_thread(judge, self._sandbox, *arguments)
        except SandboxError as error:
            cause = f"grader {self.name!r}: {error.args[0]}"
            raise NotGraded("python_grader_server_error", cause, Fault.INFRASTRUCTURE) from None


class UnitTestsGrader(_CodeGrader[UnitTests]):
    """The share of hidden tests that pass, with the first failures in words."""

    def __init__(self, spec: UnitTests, sandbox: Sandbox | None = None) -> None:
        super().__init__(spec, sandbox)
        self._tests = self._templates(spec.tests)

    async def judge(self, row: Row) -> Score:
        """Run the tests. Raises NotGraded."""
        bounds = Bounds(seconds=self.spec.seconds)
        seen = await self._held(examine, self._code(row), rendered(self._tests, row), bounds)
        total = len(seen.passed) + len(seen.failed)
        if total == 0:
            raise NotGraded("other_error", f"grader {self.name!r}: the tests hold no function test_*(call)")
        why = "; ".join(f"{name}: {text}" for name, text in list(seen.failed.items())[:3])
        return Score(seen.share, seen.share, parts={"passed_tests": float(len(seen.passed))}, explanation=why)


class SpeedupGrader(_CodeGrader[Speedup]):
    """0 for wrong or no faster, 1 from `goal` times on, straight between; the part `speedup` tells how many times."""

    def __init__(self, spec: Speedup, sandbox: Sandbox | None = None) -> None:
        super().__init__(spec, sandbox)
        self._baseline = self._templates(spec.baseline)
        self._cases = Template(spec.cases, f"grader {spec.name!r}, cases")

    async def judge(self, row: Row) -> Score:
        """Compare the answers, then the times. Raises NotGraded."""
        try:
            cases = json.loads(self._cases.render(row))
        except ValueError as error:
            raise NotGraded("invalid_variable_error", f"grader {self.name!r}: cases are no JSON: {error}") from None
        if not isinstance(cases, list) or not cases or not all(isinstance(case, list) for case in cases):
            raise NotGraded("invalid_variable_error", f"grader {self.name!r}: cases are a list of lists of arguments")
        baseline = rendered(self._baseline, row)
        raced = await self._held(race, self._code(row), baseline, self.spec.function, cases, self.spec.repeats)
        value = min(1.0, max(0.0, (raced.speedup - 1) / (self.spec.goal - 1)))
        return Score(
            value, value, parts={"correct": float(raced.correct), "speedup": raced.speedup}, explanation=raced.why
        )


def rendered(templates: Mapping[str, Template], row: Row) -> dict[str, bytes]:
    """Return the text of each path. Raises NotGraded."""
    return {path: template.render(row).encode() for path, template in templates.items()}

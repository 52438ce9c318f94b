"""`python`: source that defines `grade(sample, item)`, run in a sandbox only (openai-rft 3.6).

One sandbox per grader and worker loads the source once; every call is a fork of it without network, two minutes long at
most, that leaves nothing behind. Packages are those installed here, so their versions are part of the grader's. Where
the host has no rung that runs CPython, Monty judges what its part of Python suffices for: another interpreter, so
another version of the grader.
"""

from __future__ import annotations

import ast
import asyncio
import os
import platform
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import Any

from flyball.errors import ConfigError, Fault, SandboxError
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import Python
from flyball.graders.spec_grader import SpecGrader, unit_score
from flyball.sandbox.calls import GRADER_BOUNDS, Function, number_function
from flyball.sandbox.job import Bounds, Said
from flyball.sandbox.monty import Monty
from flyball.sandbox.sandbox import Sandbox, find_sandbox
from flyball.tools.jsonable import as_json
from flyball.types import Score

IMAGE_TAGS = ("2025-05-08",)


class PythonGrader(SpecGrader[Python]):
    """The number that the source's `grade` returns. Raises ConfigError when no sandbox holds on this host."""

    def __init__(self, spec: Python, sandbox: Sandbox | None = None, bounds: Bounds = GRADER_BOUNDS) -> None:
        super().__init__(spec)
        if spec.image_tag is not None and spec.image_tag not in IMAGE_TAGS:
            raise ConfigError(
                f"grader {spec.name!r}: image_tag {spec.image_tag!r} is not known; {IMAGE_TAGS[0]} is, or leave it "
                "out: packages are those installed here"
            )
        self._imported = _imports(spec.source)
        for name in self._imported:
            if name not in sys.stdlib_module_names and find_spec(name) is None:
                raise ConfigError(f"grader {spec.name!r} imports {name!r}, which is not installed here; install it")
        self._bounds = bounds
        try:
            self._sandbox = sandbox or find_sandbox(snippets=True)
            if isinstance(self._sandbox.rung, Monty):
                number_function(self._sandbox, spec.source, "grade", bounds).close()  # refused now, not by every sample
        except SandboxError as error:
            raise ConfigError(f"grader {spec.name!r} is Python source, and {error.args[0]}") from None
        self._mine = threading.local()
        self._opened: list[Function] = []
        self._workers = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="flyball-python-grader")

    def _made_of(self) -> list[str]:
        if isinstance(self._sandbox.rung, Monty):
            return [self._sandbox.rung.version]
        return [f"python {platform.python_version()}", *_versions(self._imported)]

    async def judge(self, row: Row) -> Score:
        """Call the source's function. Raises NotGraded."""
        arguments = as_json([row.sample, row.item])
        try:
            said = await asyncio.get_running_loop().run_in_executor(self._workers, self._call, arguments)
        except SandboxError as error:
            cause = f"grader {self.name!r}: {error.args[0]}"
            raise NotGraded("python_grader_server_error", cause, Fault.INFRASTRUCTURE) from None
        if not said.failed:
            return unit_score(said.value)
        if said.kind == "absent":
            cause = f"grader {self.name!r} {said.error}: the output is not what the grader reads"
            raise NotGraded("sample_parse_error", cause, Fault.POLICY)
        raise NotGraded("python_grader_runtime_error", f"grader {self.name!r} {said.error}")

    async def aclose(self) -> None:
        """End the sandboxes."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        for grade in self._opened:
            grade.close()

    def _call(self, arguments: Any) -> Said:
        grade: Function | None = getattr(self._mine, "grade", None)
        if grade is None:
            grade = self._mine.grade = number_function(self._sandbox, self.spec.source, "grade", self._bounds)
            self._opened.append(grade)
        return grade.call(arguments)


def _imports(source: str) -> list[str]:
    """Top-level packages that the source imports as soon as it is loaded."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return sorted(names)


def _versions(imported: list[str]) -> list[str]:
    others = [name for name in imported if name not in sys.stdlib_module_names]
    if not others:
        return []
    homes = packages_distributions()
    found = []
    for name in others:
        for distribution in sorted(set(homes.get(name, ()))):
            try:
                found.append(f"{distribution} {version(distribution)}")
            except PackageNotFoundError:
                continue
    return found

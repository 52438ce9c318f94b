"""The world of one attempt: a copy of a real package, and a developer's tools, which all run in the sandbox."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import files as files_of

from changes import CHANGES

import flyball as fb
from flyball.sandbox.job import Bounds, Job
from flyball.sandbox.sandbox import find_sandbox

BOUNDS = Bounds(seconds=20, cpu_seconds=20, memory_bytes=512 << 20, disk_bytes=16 << 20, output_bytes=20_000)
VISIBLE = """import importlib
import unittest


class Imports(unittest.TestCase):
    def test_it_imports(self):
        importlib.import_module("{name}")
"""
Files = dict[str, str]


@cache
def original(name: str) -> Files:
    """The Python files of an installed package as its authors wrote them. Raises LookupError when it is not here."""
    found = {str(path): path.read_text(encoding="utf-8") for path in files_of(name) or () if path.suffix == ".py"}
    if not found:
        raise LookupError(f"package {name} is not installed; it comes with flyball's own dependencies")
    return found


def checkout(name: str, change: str = "") -> Files:
    """The package with one change made to it, and a visible test. Raises LookupError when the change does not fit."""
    files = dict(original(name))
    if change:
        made = CHANGES[change]
        if files[made.path].count(made.old) != 1:
            raise LookupError(f"{made.path} of the installed {name} does not hold {made.old!r} once")
        files[made.path] = files[made.path].replace(made.old, made.new)
    return {**files, "tests/__init__.py": "", "tests/test_import.py": VISIBLE.format(name=name)}


class Repository:
    """You are a developer in a small Python repository. Look before you edit.
    Asked where to make a change, end with a line of the paths alone; asked a question, with a line of the names alone.
    Otherwise edit the code until it does what is asked, run the tests, and say what you did.
    Tests that you do not see decide."""

    def reset(self, request: str, repository: str, change: str = "") -> str:
        self._before = checkout(repository, change)
        self._files = dict(self._before)
        return request

    @fb.tool(writes=True)
    def shell(self, command: str) -> str:
        """Run a shell command in the repository; what it does to files stays."""
        return self._run(("sh", "-c", command))

    def grep(self, pattern: str) -> str:
        """Lines that match a regular expression, with path and number."""
        found = re.compile(pattern)
        lines = [
            f"{path}:{number}: {line}"
            for path, text in self._files.items()
            for number, line in enumerate(text.splitlines(), 1)
            if len(line) < 500 and found.search(line)
        ]
        return "\n".join(lines[:50]) or "nothing found"

    def read(self, path: str, first_line: int = 1) -> str:
        """Up to 100 lines of a file."""
        lines = self._text(path).splitlines()
        return "\n".join(lines[max(first_line, 1) - 1 :][:100])

    @fb.tool(writes=True)
    def edit(self, path: str, old: str, new: str) -> str:
        """Replace a text that stands in a file exactly once."""
        text = self._text(path)
        if text.count(old) != 1:
            raise ValueError(f"the text stands in {path} {text.count(old)} times; it must stand there once")
        self._files[path] = text.replace(old, new)
        return "edited"

    def test(self) -> str:
        """Run the tests that lie in the repository."""
        said = self._run(("python3", "-m", "unittest", "discover", "-s", "tests", "-t", "."), keep=False)
        return re.sub(r"(?m)^(Ran \d+ tests?) in [\d.]+s$", r"\1", said)  # the same actions meet the same words

    def lint(self) -> str:
        """Compile every file, warnings as errors."""
        return self._run(("python3", "-W", "error", "-m", "compileall", "-q", "-f", "."), keep=False)

    def export_state(self) -> dict[str, Files | list[str]]:
        changed = {path: text for path, text in self._files.items() if self._before.get(path) != text}
        return {"changed": changed, "deleted": sorted(set(self._before) - set(self._files))}

    def _text(self, path: str) -> str:
        if path not in self._files:
            raise LookupError(f"no file {path}")
        return self._files[path]

    def _run(self, command: tuple[str, ...], keep: bool = True) -> str:
        files = {path: text.encode() for path, text in self._files.items()}
        result = find_sandbox().run(Job(command, files=files, bounds=BOUNDS, keep_files=keep))
        if keep:
            self._files = {
                path: content.decode("utf-8", errors="replace")
                for path, content in result.files.items()
                if not path.endswith(".pyc")
            }
        said = (result.stdout + result.stderr).decode(errors="replace")
        return f"{said.strip()}\n[{result.end}, exit code {result.exit_code}]".strip()

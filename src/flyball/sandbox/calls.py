"""Many calls of one function of untrusted source: one sandbox that loads it once, and a fork of it per call."""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from flyball.errors import SandboxError
from flyball.sandbox.files import FIXED
from flyball.sandbox.job import MIB, Bounds, Job, Said
from flyball.sandbox.monty import Monty
from flyball.sandbox.process import Process
from flyball.sandbox.sandbox import Sandbox, inside
from flyball.sandbox.view import view

GRACE_SECONDS = 10.0
LOAD_SECONDS = 120.0
MOST_FRAME = 4 << 20

GRADER_BOUNDS = Bounds(
    seconds=120.0, cpu_seconds=240, memory_bytes=2048 * MIB, disk_bytes=1024 * MIB, processes=64, open_files=1024
)
"""What OpenAI grants a Python grader (openai-rft 3.6): two minutes, 2 GB of memory, 1 GB of disk."""


class Function(Protocol):
    """A function of untrusted source. Not for several threads at a time."""

    def call(self, arguments: Sequence[Any]) -> Said:
        """Call it with JSON values. Raises SandboxError when the sandbox fails, never for the code."""
        ...

    def close(self) -> None:
        """End what runs it; the next call starts it again."""
        ...


def number_function(sandbox: Sandbox, source: str, function: str, bounds: Bounds = GRADER_BOUNDS) -> Function:
    """Return a function that answers with a number, on whatever rung this is. Raises RungError."""
    if isinstance(sandbox.rung, Monty):
        return sandbox.rung.function(source, function, bounds)
    return Calls(sandbox, source, function, bounds=bounds)


class Calls:
    """A sandbox for one source. Not for several threads at a time; closed, it starts again at the next call.

    Nothing that a call leaves (files, processes, memory) is there in the next. `number`: the function returns one,
    otherwise any JSON value. `fixed`: files beside the source, which nothing inside can change.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        source: str,
        function: str,
        *,
        number: bool = True,
        fixed: Mapping[str, bytes] = MappingProxyType({}),
        bounds: Bounds = GRADER_BOUNDS,
        packages: bool = True,
    ) -> None:
        self._sandbox = sandbox
        self._source = source
        self._function = function
        self._bounds = bounds
        self._number = number
        self._fixed = fixed
        self._packages = packages
        self._held = contextlib.ExitStack()
        self._process: Process | None = None
        self._refusal: Said | None = None

    def call(self, arguments: Sequence[Any]) -> Said:
        """Call the function with JSON values. Raises SandboxError when the sandbox fails, never for the code."""
        for last in (False, True):
            self._start()
            if self._refusal is not None:
                return self._refusal
            try:
                self._send({"seconds": self._bounds.seconds, "arguments": list(arguments)})
                return self._receive(self._bounds.seconds + GRACE_SECONDS)
            except (BrokenPipeError, EOFError):
                self.close()
                if last:
                    return Said(None, "ended the sandbox that it runs in, twice", "ended")
            except TimeoutError:
                self.close()
                return Said(None, f"did not return within {self._bounds.seconds:g} s", "timed_out")
        raise AssertionError("the second try returned")

    def close(self) -> None:
        """End the sandbox."""
        self._process = None
        self._held.close()

    def _start(self) -> None:
        if self._process is not None or self._refusal is not None:
            return
        held_in = self._sandbox.rung.name != "unsafe"
        spec = {
            "function": self._function,
            "number": self._number,
            "packages": [str(path) for path in view(self._packages).packages],
            "outside": os.getpid() if held_in else None,
        }
        job = Job(
            (*self._sandbox.python, f"../{FIXED}/forkserver.py", json.dumps(spec)),
            fixed={**self._fixed, **inside("forkserver", "confine"), "source.py": self._source.encode()},
            bounds=replace(self._bounds, seconds=float(10**6)),
            packages=self._packages,
        )
        self._process = self._held.enter_context(self._sandbox.process(job))
        try:
            first = self._receive(LOAD_SECONDS)
        except TimeoutError:
            first = Said(None, f"was not loaded within {LOAD_SECONDS:g} s", "timed_out")
        except EOFError:
            said = self._process.stderr.read().decode(errors="replace").strip()[-300:]
            self.close()
            raise SandboxError(f"the sandbox of a grader did not start: {said or 'it said nothing'}") from None
        if first.failed:
            self._refusal = first
            self.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process is not None
        body = json.dumps(request).encode()
        self._process.stdin.write(struct.pack("=I", len(body)) + body)
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> Said:
        """Raises TimeoutError, and EOFError when the sandbox is gone or answers what is none."""
        assert self._process is not None
        answer = read_frame(self._process, seconds)
        error, kind, name = (str(answer.get(key, "")) for key in ("error", "kind", "type"))
        return Said(answer.get("value"), error, kind, name, float(answer.get("cpu", 0.0)))


def read_frame(process: Process, seconds: float) -> dict[str, Any]:
    """Read four bytes of length and a JSON object. Raises TimeoutError, and EOFError for an end or anything else."""
    deadline = time.monotonic() + seconds
    (length,) = struct.unpack("=I", _exactly(process, 4, deadline))
    if length > MOST_FRAME:
        raise EOFError
    try:
        return dict(json.loads(_exactly(process, length, deadline)))
    except (ValueError, TypeError):
        raise EOFError from None


def _exactly(process: Process, number: int, deadline: float) -> bytes:
    parts, descriptor = b"", process.stdout.fileno()
    while len(parts) < number:
        if not select.select([descriptor], [], [], max(0.0, min(1.0, deadline - time.monotonic())))[0]:
            if time.monotonic() >= deadline:
                raise TimeoutError
            if process.excess() is not None:
                raise EOFError
            continue
        if not (part := os.read(descriptor, number - len(parts))):
            raise EOFError
        parts += part
    return parts

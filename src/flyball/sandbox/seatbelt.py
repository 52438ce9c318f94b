"""The rung `seatbelt`: macOS's own sandbox, by the program sandbox-exec. Not tested: we have no macOS.

So it is never chosen unless FLYBALL_SANDBOX names it, its probe must hold as every rung's must, and its results are
called `seatbelt (untested)`. Known to be weaker than the rungs of Linux: macOS enforces no bound on memory or on the
number of processes of one job, and Apple calls the program deprecated, though it is what Chromium and Bazel build on.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from flyball.errors import SandboxError
from flyball.sandbox.files import FIXED, TEMPORARY, WORK, exceeds
from flyball.sandbox.job import Bounds, End, Result, Usage
from flyball.sandbox.view import View, environment, view

LABEL = "seatbelt (untested)"
TICK_SECONDS = 0.05
SYSTEM = ("/System", "/Library/Apple", "/private/etc/localtime", "/private/var/db/timezone", "/dev/urandom")
"""What programs of macOS read when they start, besides what `view` shows."""

ABOVE = ("/", "/private", "/private/tmp", "/private/var")
"""Folders above a job's own: a path through them cannot be opened unless they can be looked up."""


class Seatbelt:
    """Starts commands by sandbox-exec under a profile that denies what it does not name."""

    name = "seatbelt"
    probe = "probe"
    tested = False

    def missing(self) -> str | None:
        """Return what this host lacks, None when it can be tried."""
        if sys.platform != "darwin":
            return "it is a part of macOS"
        return None if shutil.which("sandbox-exec") else "the program sandbox-exec is not there"

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Confined:
        """Prepare a command that stands in `folder/work`."""
        folder = folder.resolve()  # the kernel compares real paths, and /tmp is a link on macOS
        program = shutil.which("sandbox-exec") or "sandbox-exec"
        argv = [program, "-p", profile(view(packages), folder), *limited(command, bounds)]
        return Confined(argv, folder, bounds)


def profile(seen: View, folder: Path) -> str:
    """Return the profile, in the sandbox's own language: everything is denied that no later line allows."""
    quoted = [json.dumps(str(path)) for path in (*seen.shown, *SYSTEM, folder / FIXED)]
    hidden = [json.dumps(str(path)) for path in seen.hidden]
    changed = [json.dumps(str(folder / name)) for name in (WORK, TEMPORARY)]
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow sysctl-read)",
        *(
            f'(allow file-read-metadata (literal "{path}"))'
            for path in ("/", "/private", "/private/tmp", "/private/var")
        ),
        *(f"(allow file-read* process-exec (subpath {path}))" for path in quoted),
        *(f"(deny file-read* process-exec (subpath {path}))" for path in hidden),
        *(f"(allow file-read* file-write* process-exec (subpath {path}))" for path in changed),
        *(f'(allow file-read* file-write-data (literal "/dev/{name}"))' for name in ("null", "zero")),
        "(deny network*)",
    ]
    return "\n".join(lines)


def limited(command: tuple[str, ...], bounds: Bounds) -> list[str]:
    """Return the command under the limits that a shell can set; blocks of 512 bytes are what `ulimit -f` counts."""
    limits = {"t": bounds.cpu_seconds, "n": bounds.open_files, "c": 0, "f": -(-bounds.disk_bytes // 512)}
    script = " && ".join([*(f"ulimit -{letter} {value}" for letter, value in limits.items()), 'exec "$@"'])
    return ["/bin/sh", "-c", script, "sh", *command]


class Confined:
    """One run. It needs nothing of Linux: output goes to files, and what is left is ended by its group."""

    def __init__(self, argv: list[str], folder: Path, bounds: Bounds) -> None:
        self._argv, self._folder, self._bounds = argv, folder, bounds

    def run(self, stdin: bytes) -> Result:
        """Wait for its end within its bounds. Raises SandboxError when it cannot be started."""
        started = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            try:
                popen = subprocess.Popen(
                    self._argv,
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    env=environment(str(self._folder / WORK), str(self._folder / TEMPORARY)),
                    cwd=self._folder / WORK,
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"{self._argv[0]} could not be started: {error}") from error
            end = self._until_end(popen, started + self._bounds.seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            code = popen.wait()
            (stdout, more), (stderr, still) = _head(out, self._bounds), _head(err, self._bounds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        exit_code = (code if code >= 0 else 128 - code) if end is End.EXITED else None
        return Result(
            end, exit_code, stdout, stderr, more or still, Usage(time.monotonic() - started, cpu, None), LABEL
        )

    def _until_end(self, popen: subprocess.Popen[bytes], deadline: float) -> End:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(TICK_SECONDS)
                return End.EXITED
            if time.monotonic() >= deadline:
                return End.TIMED_OUT
            if exceeds(self._folder, self._bounds.disk_bytes):
                return End.OUT_OF_DISK


def _head(stream: IO[bytes], bounds: Bounds) -> tuple[bytes, bool]:
    stream.seek(0)
    kept = stream.read(bounds.output_bytes + 1)
    return kept[: bounds.output_bytes], len(kept) > bounds.output_bytes

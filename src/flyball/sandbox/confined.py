"""A run that needs nothing of Linux: bounds that a shell can set, output in files, and an end by its process group."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flyball.errors import SandboxError
from flyball.sandbox.files import exceeds
from flyball.sandbox.job import Bounds, End, Result, Usage

TICK_SECONDS = 0.05


def limited(command: tuple[str, ...], bounds: Bounds) -> list[str]:
    """Return the command under the limits that a shell can set; blocks of 512 bytes are what `ulimit -f` counts."""
    limits = {"t": bounds.cpu_seconds, "n": bounds.open_files, "c": 0, "f": -(-bounds.disk_bytes // 512)}
    script = " && ".join([*(f"ulimit -{letter} {value}" for letter, value in limits.items()), 'exec "$@"'])
    return ["/bin/sh", "-c", script, "sh", *command]


@dataclass(frozen=True)
class Confined:
    """One run of `argv` in `cwd` with the variables `env`; `folder` is the job's, `label` names what holds it."""

    argv: list[str]
    folder: Path
    bounds: Bounds
    cwd: Path
    env: Mapping[str, str]
    label: str

    def run(self, stdin: bytes) -> Result:
        """Wait for its end within its bounds. Raises SandboxError when it cannot be started."""
        started = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            try:
                popen = subprocess.Popen(
                    self.argv,
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    env=self.env,
                    cwd=self.cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"{self.argv[0]} could not be started: {error}") from error
            end = self._until_end(popen, started + self.bounds.seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            code = popen.wait()
            (stdout, more), (stderr, still) = _head(out, self.bounds), _head(err, self.bounds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        exit_code = (code if code >= 0 else 128 - code) if end is End.EXITED else None
        return Result(
            end, exit_code, stdout, stderr, more or still, Usage(time.monotonic() - started, cpu, None), self.label
        )

    def _until_end(self, popen: subprocess.Popen[bytes], deadline: float) -> End:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(TICK_SECONDS)
                return End.EXITED
            if time.monotonic() >= deadline:
                return End.TIMED_OUT
            if exceeds(self.folder, self.bounds.disk_bytes):
                return End.OUT_OF_DISK


def _head(stream: IO[bytes], bounds: Bounds) -> tuple[bytes, bool]:
    stream.seek(0)
    kept = stream.read(bounds.output_bytes + 1)
    return kept[: bounds.output_bytes], len(kept) > bounds.output_bytes

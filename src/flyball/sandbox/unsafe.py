"""The rung `unsafe`: limits and an empty environment, and nothing that holds code in. Only when asked for by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from flyball.errors import SandboxError
from flyball.sandbox.files import TEMPORARY, WORK
from flyball.sandbox.job import Bounds
from flyball.sandbox.process import Process, set_limits, threads_of_this_user
from flyball.sandbox.view import environment


class Unsafe:
    """Starts commands as they are: for code that you trust, on a host that offers no rung."""

    name = "unsafe"
    probe = "probe"
    tested = True

    def missing(self) -> str | None:
        """Return None: it can always be tried."""
        return None

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Process:
        """Start a command in `folder/work`. Raises SandboxError."""
        env = environment(str(folder / WORK), str(folder / TEMPORARY))
        try:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                cwd=folder / WORK,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"{command[0]} could not be started: {error}") from error
        with contextlib.suppress(ProcessLookupError):
            set_limits(popen.pid, bounds, threads_of_this_user() + bounds.processes)
        return Process(popen, _Group(popen.pid), bounds, self.name, folder, None)


class _Group:
    def __init__(self, leader: int) -> None:
        self._leader = leader

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._leader, signal.SIGKILL)

    def exit_code(self, status: int) -> int:
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

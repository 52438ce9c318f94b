"""The rung `landlock`: the kernel's Landlock and seccomp, without any namespace and without a program to install.

The host's programs can be read, one folder written; signals, tracing, sockets and TCP end at the domain. Weaker than
bubblewrap in two ways that are no escapes: names and sizes of host files can be asked for by their full path, and
modes and times of files cannot be changed at all.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path

from flyball.errors import SandboxError
from flyball.sandbox.cgroup import open_cgroup
from flyball.sandbox.files import FIXED, TEMPORARY, WORK
from flyball.sandbox.inside import confine
from flyball.sandbox.inside.seccomp import filter_program
from flyball.sandbox.job import Bounds
from flyball.sandbox.process import Process, set_limits, threads_of_this_user
from flyball.sandbox.view import INTERPRETER, environment, reading_rules, view

OWN_PROCESSES = 1
READ_DEVICES = ("/dev/urandom", "/dev/random")
WRITE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


class Landlock:
    """Starts commands in a Landlock domain. As root it needs a control group, which bounds the number of processes."""

    name = "landlock"
    probe = "probe"
    tested = True

    def missing(self) -> str | None:
        """Return what this host lacks, None when it can be tried."""
        if sys.platform != "linux":
            return "it is a part of Linux"
        if (abi := confine.landlock_abi()) < confine.NEEDED_ABI:
            return (
                f"the kernel has Landlock ABI {abi}; signals can be held in from ABI {confine.NEEDED_ABI} (Linux 6.12)"
            )
        return None

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Process:
        """Start a command in `folder/work`. Raises SandboxError."""
        cgroup = open_cgroup(bounds, OWN_PROCESSES)
        gate_end, gate = os.pipe()
        ready, ready_end = os.pipe()
        read, listed = reading_rules(view(packages))
        spec = {
            "read": [*read, str(folder / FIXED), *READ_DEVICES],
            "write": [str(folder / WORK), str(folder / TEMPORARY), *WRITE_DEVICES],
            "list": listed,
            "filter": filter_program(host_files=True),
            "command": command,
            "env": environment(str(folder / WORK), str(folder / TEMPORARY)),
            "cwd": str(folder / WORK),
            "gate": gate_end,
            "ready": ready_end,
            "outside": os.getpid(),
        }
        try:
            popen = subprocess.Popen(
                [str(INTERPRETER), "-I", "-S", confine.__file__, marshal.dumps(spec).hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(gate_end, ready_end),
                env={},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(gate_end)
            os.close(ready_end)
        process = Process(popen, _Domain(gate), bounds, self.name, folder, cgroup)
        try:
            if cgroup is not None:
                cgroup.add(popen.pid)
            taken = 0 if cgroup is not None else threads_of_this_user()
            set_limits(popen.pid, bounds, taken + bounds.processes + OWN_PROCESSES)
            os.write(gate, b"1")
            held = os.read(ready, 1)
        except OSError as error:
            process.close()
            raise SandboxError(f"the Landlock launcher could not be bounded: {error}") from error
        finally:
            os.close(ready)
        if not held:
            said = process.stderr.read().decode(errors="replace").strip()
            process.close()
            raise SandboxError(f"the Landlock launcher did not start: {said or 'it said nothing'}")
        return process


class _Domain:
    """The launcher kills everything in its domain when its gate is closed."""

    def __init__(self, gate: int) -> None:
        self._gate: int | None = gate

    def stop(self) -> None:
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    def exit_code(self, status: int) -> int:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            raise SandboxError(f"the Landlock launcher was ended by signal {-code}")
        return code

"""The rung `bubblewrap`: namespaces of its own for users, processes, network, files and the rest, by the program bwrap.

Inside, the host's programs are there to read, one folder to write, and no process, user or network of the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from typing import IO

from flyball.errors import SandboxError
from flyball.sandbox.cgroup import open_cgroup
from flyball.sandbox.files import FIXED, TEMPORARY, WORK
from flyball.sandbox.inside.seccomp import filter_program
from flyball.sandbox.job import Bounds
from flyball.sandbox.keeper import keeper
from flyball.sandbox.process import GRACE_SECONDS, Process, set_limits
from flyball.sandbox.view import environment, view

ROOM = "/sandbox"
OWN_PROCESSES = 2
"""bwrap outside and the first process inside."""
NAMESPACES = [
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--cap-drop",
    "ALL",
    "--uid",
    "65534",
    "--gid",
    "65534",
    "--new-session",
    "--clearenv",
    "--hostname",
    "sandbox",
]


class Bubblewrap:
    """Starts commands under bwrap. As root it needs a control group, which bounds the number of processes.

    bwrap waits for its seccomp filter as the last thing before the command. That is the gate: the filter is written
    once everything is bounded, in one piece (it is shorter than PIPE_BUF), and a host that dies before leaves a bwrap
    that refuses to start anything for want of it. From then on the keeper ends the sandbox with the host.
    """

    name = "bubblewrap"
    probe = "probe"
    tested = True

    def missing(self) -> str | None:
        """Return what this host lacks, None when it can be tried."""
        return None if shutil.which("bwrap") else "the program bwrap is not installed (package bubblewrap)"

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Process:
        """Start a command in `folder/work`. Raises SandboxError."""
        cgroup = open_cgroup(bounds, OWN_PROCESSES)
        status, status_end = os.pipe()
        gate_end, gate = os.pipe()
        argv = [
            *("bwrap", "--json-status-fd", str(status_end), "--seccomp", str(gate_end)),
            *NAMESPACES,
            *_mounts(folder, bounds, packages),
            *(
                word
                for pair in environment(f"{ROOM}/{WORK}", f"{ROOM}/{TEMPORARY}").items()
                for word in ("--setenv", *pair)
            ),
            "--",
            *command,
        ]
        try:
            beside = keeper()
            beside.hold(status)
            popen = _start(argv, (status_end, gate_end))
        except OSError as error:
            for descriptor in (status, gate):
                os.close(descriptor)
            if cgroup is not None:
                cgroup.close()
            raise SandboxError(f"bubblewrap could not be started: {error}") from error
        finally:
            for descriptor in (status_end, gate_end):
                os.close(descriptor)
        hold = _Namespace(popen, os.fdopen(status, "rb"))
        process = Process(popen, hold, bounds, self.name, folder, cgroup)
        try:
            first, descriptor = hold.first_process()
            if cgroup is not None:
                cgroup.add(first)
            set_limits(first, bounds, bounds.processes + OWN_PROCESSES)
            beside.kill_afterwards(descriptor)
            os.write(gate, filter_program())
        except (ProcessLookupError, BrokenPipeError):
            said = hold.last_words()
            process.close()
            raise SandboxError(f"bubblewrap ended before its processes were bounded: {said}") from None
        except OSError as error:
            process.close()
            raise SandboxError(f"bubblewrap could not bound its processes: {error}") from error
        except SandboxError:
            process.close()
            raise
        finally:
            os.close(gate)
        return process


def _start(argv: list[str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        start_new_session=True,
    )


class _Namespace:
    """The first process inside: when it dies, the kernel ends all others."""

    def __init__(self, popen: subprocess.Popen[bytes], status: IO[bytes]) -> None:
        self._popen = popen
        self._status = status
        self._first: int | None = None

    def first_process(self) -> tuple[int, int]:
        """Return its number outside and a pidfd. Raises SandboxError with what bwrap said when there was none.

        Raises ProcessLookupError when it is gone.
        """
        line = self._status.readline()
        if not line:
            raise SandboxError(f"bubblewrap did not start: {self.last_words()}")
        number = int(json.loads(line)["child-pid"])
        self._first = os.pidfd_open(number)
        return number, self._first

    def last_words(self) -> str:
        """Let it come to its end, end what is left of it, and return what it had to say."""
        ended = os.pidfd_open(self._popen.pid)
        select.select([ended], [], [], GRACE_SECONDS)
        os.close(ended)
        self.stop()
        assert self._popen.stderr is not None
        return self._popen.stderr.read().decode(errors="replace").strip() or "it said nothing"

    def stop(self) -> None:
        if self._first is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._popen.pid, signal.SIGKILL)  # not by Popen, which would take its exit status from us
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)
        os.close(self._first)
        self._first = None

    def exit_code(self, status: int) -> int:
        with self._status:
            for line in self._status:
                if (code := json.loads(line).get("exit-code")) is not None:
                    return int(code)
        raise SandboxError(f"bubblewrap ended with {os.waitstatus_to_exitcode(status)} before the command did")


def _mounts(folder: Path, bounds: Bounds, packages: bool) -> list[str]:
    seen = view(packages)
    argv: list[str] = []
    for tree in seen.shown:
        argv += ["--ro-bind", str(tree), str(tree)]
    for path, target in seen.links:
        argv += ["--symlink", target, str(path)]
    for place in seen.hidden:
        argv += ["--tmpfs", str(place), "--remount-ro", str(place)]
    argv += ["--proc", "/proc", "--dev", "/dev", "--size", str(bounds.disk_bytes), "--tmpfs", "/dev/shm"]
    argv += ["--bind", str(folder / WORK), f"{ROOM}/{WORK}", "--bind", str(folder / TEMPORARY), f"{ROOM}/{TEMPORARY}"]
    argv += ["--ro-bind", str(folder / FIXED), f"{ROOM}/{FIXED}"]
    if not any(tree.is_relative_to("/tmp") for tree in seen.shown):
        # An interpreter that lies below /tmp makes it a folder, which stays read-only; $TMPDIR is the place to write.
        argv += ["--symlink", f"{ROOM}/{TEMPORARY}".lstrip("/"), "/tmp"]
    # started by root, the code keeps root's number outside, to whom /proc/sys would listen
    return [*argv, "--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", f"{ROOM}/{WORK}"]

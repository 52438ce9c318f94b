"""The rungs `podman` and `docker`: a container without network, capabilities or a file system of its own to write.

The image is made here and is empty: the container shows the host's programs and interpreter as bubblewrap does, so a
job runs on the same files on every rung and nothing is downloaded. Slower than the others, and weaker in one way: no
kernel ends a container that a killed host had only begun to start. It ends by `timeout` inside, at the job's own time.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

from flyball.errors import SandboxError
from flyball.sandbox.files import FIXED, TEMPORARY, WORK
from flyball.sandbox.inside.seccomp import ALWAYS, NEW_NAMESPACES, SELF_ONLY, TERMINAL
from flyball.sandbox.job import Bounds
from flyball.sandbox.keeper import keeper
from flyball.sandbox.process import Process
from flyball.sandbox.view import View, environment, view

ROOM = "/sandbox"
OWN_PROCESSES = 1
NOBODY = 65534
ANSWER_SECONDS = 60.0
"""For the container program itself to answer, whatever it is asked."""
CALLS = "calls.json"
USER_PROCESSES = 4096
NOT_STARTED = ("created", "configured", "initialized")
_numbers = itertools.count()


class Container:
    """Starts commands by `podman` or `docker`, whichever `program` names."""

    probe = "probe"

    def __init__(self, program: str, *, tested: bool) -> None:
        self.name = program
        self.tested = tested

    def missing(self) -> str | None:
        """Return what this host lacks, None when it can be tried."""
        if sys.platform != "linux":
            return "it shows the container this host's programs, which must be those of Linux"
        if shutil.which(self.name) is None:
            return f"the program {self.name} is not installed"
        if shutil.which("timeout") is None:
            return "the program timeout is not installed (package coreutils)"
        asked = _ask(self.name, "info")
        if asked.returncode != 0:
            return f"{self.name} does not answer: {asked.stderr.decode(errors='replace').strip()[-200:]}"
        return None

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Process:
        """Start a command in `folder/work`. Raises SandboxError."""
        image = _image(self.name)
        (folder / CALLS).write_bytes(call_filter())
        name = f"flyball-{os.getpid()}-{next(_numbers)}"
        user = (os.getuid(), os.getgid())
        if user[0] == 0:
            user = (NOBODY, NOBODY)
            _give(folder, *user)
        argv = arguments(self.name, name, image, view(packages), folder, bounds, user)
        try:
            popen = subprocess.Popen(
                [*argv, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"{self.name} could not be started: {error}") from error
        container = _Container(self.name, name)
        label = self.name if self.tested else f"{self.name} (untested)"
        first = container.first_process(popen)
        with contextlib.suppress(OSError):  # it has ended, or is another user's: then its own time ends it
            descriptor = os.pidfd_open(first)
            try:
                keeper().kill_afterwards(descriptor)
            finally:
                os.close(descriptor)
        return Process(popen, container, bounds, label, folder, container, first)


def arguments(
    program: str, name: str, image: str, seen: View, folder: Path, bounds: Bounds, user: tuple[int, int]
) -> list[str]:
    """Return the command line up to the command itself."""
    argv = [program, "run", "--name", name, "--interactive", "--pull", "never", "--log-driver", "none"]
    argv += ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    argv += ["--security-opt", f"seccomp={folder / CALLS}", "--hostname", "sandbox", "--user", f"{user[0]}:{user[1]}"]
    if program == "podman":
        argv += ["--http-proxy=false", "--read-only-tmpfs=false"]
        if os.getuid() != 0:
            argv += ["--userns", "keep-id"]
    argv += ["--pids-limit", str(bounds.processes + OWN_PROCESSES), "--shm-size", str(bounds.disk_bytes)]
    argv += ["--memory", str(bounds.memory_bytes), "--memory-swap", str(bounds.memory_bytes)]
    limits = {"cpu": bounds.cpu_seconds, "fsize": bounds.disk_bytes, "nofile": bounds.open_files, "core": 0}
    # --pids-limit is the bound; this one counts all of a user's on the host, and the default of podman may not be had
    limits["nproc"] = USER_PROCESSES
    for limit, value in limits.items():
        argv += ["--ulimit", f"{limit}={value}:{value}"]
    for tree in seen.shown:
        argv += ["--volume", f"{tree}:{tree}:ro"]
    for place in (*seen.hidden, Path("/dev/mqueue")):
        argv += ["--tmpfs", f"{place}:ro,size=4k{',notmpcopyup' if program == 'podman' else ''}"]
    for inside, mode in ((WORK, "rw"), (TEMPORARY, "rw"), (FIXED, "ro")):
        argv += ["--volume", f"{folder / inside}:{ROOM}/{inside}:{mode}"]
    return [*argv, "--workdir", f"{ROOM}/{WORK}", image, *_inside(bounds)]


def _inside(bounds: Bounds) -> list[str]:
    """Return what stands before the command inside: its whole environment, its time, and its limit of memory each."""
    variables = environment(f"{ROOM}/{WORK}", f"{ROOM}/{TEMPORARY}")
    seconds = math.ceil(bounds.seconds) + 1
    limited = f'ulimit -v {bounds.memory_bytes // 1024} && exec "$@"'
    argv = ["env", "-i", *("=".join(pair) for pair in variables.items())]
    return [*argv, "timeout", "--signal", "KILL", str(seconds), "sh", "-c", limited, "sh"]


def call_filter() -> bytes:
    """Return the system calls of `inside/seccomp.py` that are denied, in the form that containers read.

    It replaces the program's own filter, so what is denied does not depend on how a host was set up.
    """
    denied = [{"names": sorted(ALWAYS), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}]
    denied.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    flags = [1 << bit for bit in range(32) if NEW_NAMESPACES >> bit & 1]
    checks = [("clone", 0, "SCMP_CMP_MASKED_EQ", flag, flag) for flag in flags]
    checks += [("ioctl", 1, "SCMP_CMP_MASKED_EQ", 0xFFFFFFFF, request) for request in TERMINAL]
    checks += [(name, place, "SCMP_CMP_NE", 0, 0) for name, (_, places) in SELF_ONLY.items() for place in places]
    for name, place, how, value, other in checks:
        argument = {"index": place, "op": how, "value": value, "valueTwo": other}
        denied.append({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM, "args": [argument]})
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": denied}).encode()


def skeleton(seen: View) -> bytes:
    """Return the image's files as a tar archive: places to mount on, and the links of the host's root."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("proc", "dev", "sys", "etc", *(f"{ROOM[1:]}/{inside}" for inside in (WORK, TEMPORARY, FIXED))):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, target in [*seen.links, (Path("/tmp"), f"{ROOM[1:]}/{TEMPORARY}")]:
            entry = tarfile.TarInfo(str(path)[1:])
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return made.getvalue()


@functools.cache
def _image(program: str) -> str:
    """Return the name of the empty image, made when it is not there. Raises SandboxError."""
    files = skeleton(view(packages=False))
    name = f"flyball-sandbox:{sha256(files).hexdigest()[:16]}"
    if _ask(program, "image", "inspect", name).returncode != 0:
        made = _ask(program, "import", "-", name, given=files)
        if made.returncode != 0:
            said = made.stderr.decode(errors="replace").strip()[-300:]
            raise SandboxError(f"{program} could not make the sandbox's empty image: {said}")
    return name


def _give(folder: Path, user: int, group: int) -> None:
    """Give what the code may change to the user that it runs as."""
    for top in (folder / WORK, folder / TEMPORARY):
        for path in (top, *top.rglob("*")):
            os.chown(path, user, group, follow_symlinks=False)
    folder.chmod(0o711)


def _ask(program: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([program, *words], input=given, capture_output=True, timeout=ANSWER_SECONDS, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess([program], 1, b"", str(error).encode())


class _Container:
    """One container: how it is ended, and how it ended. Its memory and processes are bounded by the kernel."""

    bounds_memory = True

    def __init__(self, program: str, name: str) -> None:
        self._program, self._name = program, name
        self._end: list[str] | None = None

    def first_process(self, client: subprocess.Popen[bytes]) -> int:
        """Return its number outside, 0 when the container has ended or will not start."""
        while True:
            # not `poll`, which would take its number from it: its end is waited for later, as any other's
            ended = os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            state = self._state("Status", "Pid")
            if ended or (state and state[0] not in NOT_STARTED):
                return int(state[1]) if state else 0

    def stop(self) -> None:
        if self._end is None:
            self._end = self._state("Status", "ExitCode", "OOMKilled")
            _ask(self._program, "rm", "--force", self._name)

    def _state(self, *names: str) -> list[str]:
        what = " ".join(f"{{{{.State.{name}}}}}" for name in names)
        return _ask(self._program, "inspect", "--format", what, self._name).stdout.decode().split()

    def exit_code(self, status: int) -> int:
        if not self._end or self._end[0] in NOT_STARTED:
            code = os.waitstatus_to_exitcode(status)
            raise SandboxError(f"{self._program} did not start the sandbox's container; it ended with {code}")
        return int(self._end[1])

    def ran_out_of_memory(self) -> bool:
        return bool(self._end) and self._end[-1] == "true"  # type: ignore[index]

    def close(self) -> None:
        """Nothing is left: `stop` removed the container."""

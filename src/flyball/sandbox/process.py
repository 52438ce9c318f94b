"""One started sandbox: its pipes, its bounds while it runs, its end, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from flyball.sandbox.files import exceeds
from flyball.sandbox.job import Bounds, End, Result, Usage

FIRST_TICK_SECONDS, TICK_SECONDS = 0.02, 0.1
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
CHUNK = 1 << 16
GRACE_SECONDS = 5.0


class Hold(Protocol):
    """How a rung ends what it started, and how it reads the end."""

    def stop(self) -> None:
        """End every process of the sandbox; they may take a moment to be gone."""
        ...

    def exit_code(self, status: int) -> int:
        """Return the command's exit code. Raises SandboxError when the command was never started."""
        ...


class Group(Protocol):
    """What the kernel bounds together: a control group, or a container with its own."""

    bounds_memory: bool

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something here for want of memory."""
        ...

    def close(self) -> None:
        """Give back what the group held."""
        ...


class Process:
    """A running sandbox. `run` waits for its end; who talks to it himself ends with `close`.

    `root`: the process whose descendants the sandbox is, where that is not `popen`.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        hold: Hold,
        bounds: Bounds,
        rung: str,
        folder: Path,
        group: Group | None,
        root: int | None = None,
    ) -> None:
        self.popen = popen
        self.rung = rung
        self._hold = hold
        self._bounds = bounds
        self._folder = folder
        self._root = popen.pid if root is None else root
        self._group = group
        self._started = time.monotonic()
        self._status: int | None = None
        self._cpu_seconds: float | None = None
        self._memory_bytes: int | None = None

    @property
    def stdin(self) -> IO[bytes]:
        assert self.popen.stdin is not None
        return self.popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.popen.stdout is not None
        return self.popen.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self.popen.stderr is not None
        return self.popen.stderr

    @property
    def ended(self) -> bool:
        """Whether nobody writes to standard error any more, so that it can be read to its end without waiting."""
        poll = select.poll()
        poll.register(self.stderr, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(200))

    def run(self, stdin: bytes) -> Result:
        """Feed the command, wait within its bounds, end what is left. Raises SandboxError when it never started."""
        streams = _Streams(self, stdin, self._bounds.output_bytes)
        try:
            end = self._until_end(streams)
            status = self._stop()
            streams.drain()
        finally:
            self.close()
        if end is End.EXITED and self._group is not None and self._group.ran_out_of_memory():
            end = End.OUT_OF_MEMORY
        return Result(
            end,
            self._hold.exit_code(status) if end is End.EXITED else None,
            bytes(streams.kept[1]),
            bytes(streams.kept[2]),
            streams.truncated,
            Usage(time.monotonic() - self._started, self._cpu_seconds, self._memory_bytes),
            self.rung,
        )

    def excess(self) -> End | None:
        """Read what is used, and return which of the bounds that are looked at from outside is exceeded."""
        family = [_use(process) for process in _family(self._root)]
        memory = sum(use[1] for use in family)
        self._memory_bytes = max(self._memory_bytes or 0, memory)
        self._cpu_seconds = max(self._cpu_seconds or 0.0, sum(use[0] for use in family))
        kernel_counts = self._group is not None and self._group.bounds_memory
        if memory > self._bounds.memory_bytes and not kernel_counts:
            return End.OUT_OF_MEMORY
        if exceeds(self._folder, self._bounds.disk_bytes):
            return End.OUT_OF_DISK
        return None

    def close(self) -> None:
        """End every process of the sandbox and give back what it held. May be called again."""
        self._stop()
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        if self._group is not None:
            self._group.close()

    def _until_end(self, streams: _Streams) -> End:
        deadline = self._started + self._bounds.seconds
        ended = os.pidfd_open(self.popen.pid)
        wait = FIRST_TICK_SECONDS
        tick = time.monotonic() + wait
        try:
            while True:
                now = time.monotonic()
                if now >= deadline:
                    return End.TIMED_OUT
                if now >= tick:
                    if (excess := self.excess()) is not None:
                        return excess
                    wait = min(2 * wait, TICK_SECONDS)
                    tick = time.monotonic() + wait
                if streams.turn(ended, max(0.0, min(tick, deadline) - now)):
                    return End.EXITED
        finally:
            os.close(ended)

    def _stop(self) -> int:
        """End everything and wait for it; returns the exit status."""
        if self._status is None:
            self._hold.stop()
            ended = os.pidfd_open(self.popen.pid)
            if not select.select([ended], [], [], GRACE_SECONDS)[0]:
                signal.pidfd_send_signal(ended, signal.SIGKILL)
            os.close(ended)
            self._status = os.waitpid(self.popen.pid, 0)[1]
            self.popen.returncode = os.waitstatus_to_exitcode(self._status)
        return self._status


class _Streams:
    """Moves bytes between the command and here; past the limit they are read and dropped."""

    def __init__(self, process: Process, stdin: bytes, limit: int) -> None:
        self.kept = {1: bytearray(), 2: bytearray()}
        self.truncated = False
        self._limit = limit
        self._left = memoryview(stdin)
        self._selector = selectors.DefaultSelector()
        for stream in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)
        self._stdin = process.stdin
        self._selector.register(process.stdout, selectors.EVENT_READ, 1)
        self._selector.register(process.stderr, selectors.EVENT_READ, 2)
        if stdin:
            self._selector.register(process.stdin, selectors.EVENT_WRITE, 0)
        else:
            process.stdin.close()

    def turn(self, ended: int, seconds: float) -> bool:
        """Move what is ready, within `seconds`; returns whether the process `ended`."""
        key = self._selector.register(ended, selectors.EVENT_READ, None)
        try:
            ready = self._selector.select(seconds)
        finally:
            self._selector.unregister(ended)
        for moved, _ in ready:
            if moved is not key and moved.data is not None:
                self._move(moved)
        return any(moved.fd == ended for moved, _ in ready)

    def drain(self) -> None:
        """Read what the ended processes left in their pipes."""
        while keys := [key for key, _ in self._selector.select(0) if key.data]:
            for key in keys:
                self._move(key)
        self._selector.close()

    def _move(self, key: selectors.SelectorKey) -> None:
        if key.data == 0:
            return self._feed()
        try:
            part = os.read(key.fd, CHUNK)
        except OSError:
            part = b""
        if not part:
            self._selector.unregister(key.fileobj)
            return
        kept = self.kept[key.data]
        room = self._limit - len(kept)
        kept += part[:room]
        self.truncated |= len(part) > room

    def _feed(self) -> None:
        try:
            self._left = self._left[os.write(self._stdin.fileno(), self._left[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:  # the command does not read on
            self._left = self._left[:0]
        if not self._left:
            self._selector.unregister(self._stdin)
            self._stdin.close()


def set_limits(process: int, bounds: Bounds, processes: int) -> None:
    """Set the limits of a process, which it hands on to all that it starts."""
    limits = {
        resource.RLIMIT_AS: bounds.memory_bytes,
        resource.RLIMIT_CPU: bounds.cpu_seconds,
        resource.RLIMIT_FSIZE: bounds.disk_bytes,
        resource.RLIMIT_NOFILE: bounds.open_files,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        hard = resource.prlimit(process, limit)[1]
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(process, limit, (bounded, bounded))


def threads_of_this_user() -> int:
    """Return how many threads this user runs on this host: what RLIMIT_NPROC counts outside of a user namespace."""
    user, count = os.getuid(), 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == user:
                    count += sum(1 for _ in (entry / "task").iterdir())
    return count


def _family(process: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield process
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _use(process: int) -> tuple[float, int]:
    """Processor seconds of a process and its reaped children, and the bytes that it holds and no file backs."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0
    kibibytes = sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "RssShmem:")))
    return sum(map(int, fields[11:15])) / CLOCK_TICKS, kibibytes * 1024

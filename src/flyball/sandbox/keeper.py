"""The keeper of a host process: a small process beside it that ends what the host can no longer end.

    python -I -S keeper.py SOCKET

The host lends it descriptors over a socket: the number of a process (a pidfd), to be killed when the host has died, or
the end of a pipe, to be held open until its writer is done. No option of bwrap does this: `--die-with-parent` takes
effect some time after the start, and a host that dies before leaves a sandbox, with a command in it that runs on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading

KILL, HOLD = b"k", b"h"


class Keeper:
    """The host's side. Its process ends when no sandbox of a dead host is left, or the host has ended."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
                env={},
                cwd="/",
                start_new_session=True,  # a signal to the host's group must not reach it
            )
        os.register_at_fork(after_in_child=self._socket.close)  # the host is dead when it is, not its children

    @property
    def there(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def kill_afterwards(self, process: int) -> None:
        """Have a process killed when this one has died: `process` is a pidfd. Raises ChildProcessError."""
        self._lend(KILL, process)

    def hold(self, reading: int) -> None:
        """Have the reading end of a pipe held open until nobody can write to it. Raises ChildProcessError."""
        self._lend(HOLD, reading)

    def _lend(self, kind: bytes, descriptor: int) -> None:
        try:
            socket.send_fds(self._socket, [kind], [descriptor])
        except OSError as error:
            raise ChildProcessError(f"the keeper of sandboxes has ended: {error}") from error


_KEEPERS: dict[int, Keeper] = {}
_STARTING = threading.Lock()
os.register_at_fork(before=_STARTING.acquire, after_in_parent=_STARTING.release, after_in_child=_STARTING.release)


def keeper() -> Keeper:
    """Return the keeper of this process; another where it has been ended. A fork of this process has its own."""
    with _STARTING:
        if (known := _KEEPERS.get(os.getpid())) is None or not known.there:
            known = _KEEPERS[os.getpid()] = Keeper()
        return known


def keep(host: socket.socket) -> None:
    """Take what is lent until the host has died, then kill and wait for what is left."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lent: dict[int, bytes] = {}
    poll = select.poll()
    poll.register(host, select.POLLIN)
    host_is_there = True
    while host_is_there or lent:
        for descriptor, _ in poll.poll():
            if descriptor != host.fileno():
                poll.unregister(descriptor)
                os.close(descriptor)
                del lent[descriptor]
                continue
            kind, descriptors, _, _ = socket.recv_fds(host, 1, 1)
            for taken in descriptors:
                lent[taken] = kind
                # a pidfd is readable once its process has ended; a pipe is looked at for its end alone
                poll.register(taken, select.POLLIN if kind == KILL else 0)
            if not kind:
                poll.unregister(host)
                host_is_there = False
                _kill([taken for taken, kind in lent.items() if kind == KILL])


def _kill(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    keep(socket.socket(fileno=int(sys.argv[1])))

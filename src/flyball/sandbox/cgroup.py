"""A control group of one sandbox: the kernel's bound on the number of its processes and, in version 2, their memory.

Needed as root, for whom RLIMIT_NPROC does not hold. Of version 1 only the controller `pids` is used: its other
hierarchies belong to whoever runs this host.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from pathlib import Path

from flyball.sandbox.job import Bounds

ROOT = Path("/sys/fs/cgroup")
YOUNG = 60.0
"""Seconds for which a group of a process that is not there is left alone."""
_numbers = itertools.count()


class Cgroup:
    """One control group: `bounds_memory` says whether it bounds memory too. Close it when its processes are gone."""

    def __init__(self, folder: Path, bounds: Bounds, extra_processes: int) -> None:
        self._folder = folder
        (folder / "pids.max").write_text(str(bounds.processes + extra_processes))
        self.bounds_memory = (folder / "memory.max").exists()
        if self.bounds_memory:
            (folder / "memory.max").write_text(str(bounds.memory_bytes))
            for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                if (folder / name).exists():
                    (folder / name).write_text(value)

    def add(self, process: int) -> None:
        """Put a process, and what it starts from now on, into the group."""
        (self._folder / "cgroup.procs").write_text(str(process))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something here for want of memory."""
        if not self.bounds_memory:
            return False
        return "oom_kill 0" not in (self._folder / "memory.events").read_text()

    def close(self) -> None:
        """Remove the group; processes that are being torn down get half a second for it."""
        for _ in range(50):
            try:
                self._folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


def open_cgroup(bounds: Bounds, extra_processes: int) -> Cgroup | None:
    """Return a new group below this process's own or the nearest above it, None where this host lends none."""
    for parent in _parents():
        _remove_leftovers(parent, os.getpid())
        folder = parent / f"flyball-{os.getpid()}-{next(_numbers)}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            return Cgroup(folder, bounds, extra_processes)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return None


@functools.cache
def _remove_leftovers(parent: Path, process: int) -> None:
    """Remove, once per process, the groups of processes that were killed before they could.

    The kernel refuses a group that is in use. A young one is left alone: its process may be one that is not seen here.
    """
    for folder in parent.glob("flyball-*-*"):
        owner = folder.name.split("-")[1]
        with contextlib.suppress(OSError):
            if owner.isdigit() and not Path(f"/proc/{owner}").exists() and time.time() - folder.stat().st_mtime > YOUNG:
                folder.rmdir()


def _parents() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = ROOT / "pids" if "pids" in controllers.split(",") else ROOT if not controllers else None
        if mount is None:
            continue
        own = mount / path.lstrip("/")
        found += [own] if controllers else [own, *(p for p in own.parents if p.is_relative_to(mount))]
    return [parent for parent in found if (parent / "cgroup.procs").exists()]

"""Tries, from inside, what a sandbox must refuse, and prints the names of what went through as a JSON list.

    python -I -S probe.py

`spec.json` beside this file holds `outside` (a process), `secret` (a file that must not be readable), `port` (of a
listener on loopback), `processes` (how many may be started) and `mark` with `folders` (a file name that is tried in
these folders of the host, where the caller looks for it afterwards).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PTRACE_SEIZE = 0x4206
"""Traces without stopping: what is probed may be let through."""
NEW_USER = 0x10000000
NOT_THERE = (AttributeError,) if sys.platform == "wasi" else ()
"""How a call is refused on a platform that has no processes: it does not exist."""


def reads_secret(spec: dict[str, Any]) -> bool:
    """Whether a file of the host can be read."""
    with open(spec["secret"], "rb") as file:
        return bool(file.read(1))


def writes_outside(spec: dict[str, Any]) -> bool:
    """Whether a file can be made in a folder that the sandbox shows."""
    shown = ("/", "/usr", "/etc", "/dev", "/var/tmp", "../fixed")
    if sys.platform == "wasi":  # its root is the job's own folder
        shown = ("/sandbox", "/sandbox/fixed", "/usr/local/lib")
    made = [folder for folder in (*spec["folders"], *shown) if _makes(folder, spec["mark"])]
    return any(folder in shown for folder in made)


def _makes(folder: str, name: str) -> bool:
    try:
        with open(os.path.join(folder, name), "wb"):
            return True
    except OSError:
        return False


def reaches_loopback(spec: dict[str, Any]) -> bool:
    """Whether a server on this host answers."""
    with socket.create_connection(("127.0.0.1", spec["port"]), timeout=2):
        return True


def signals_outside(spec: dict[str, Any]) -> bool:
    """Whether a process outside can be signalled."""
    os.kill(spec["outside"], 0)
    with open(f"/proc/{spec['outside']}/comm", "rb"):  # the number may mean another process inside
        return True


def traces_outside(spec: dict[str, Any]) -> bool:
    """Whether a process outside can be traced."""
    return bool(ctypes.CDLL(None).ptrace(PTRACE_SEIZE, spec["outside"], None, None) == 0)


def makes_namespaces(spec: dict[str, Any]) -> bool:
    """Whether a user namespace, and with it all capabilities inside, can be had."""
    return bool(ctypes.CDLL(None).unshare(NEW_USER) == 0)


def sees_environment(spec: dict[str, Any]) -> bool:
    """Whether a variable of the caller's environment came along."""
    return "FLYBALL_PROBE_SECRET" in os.environ


def forks_without_bound(spec: dict[str, Any]) -> bool:
    """Whether more processes can be started than are allowed."""
    children = []
    try:
        for _ in range(spec["processes"] + 8):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
        return True
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


PROBES: tuple[Callable[[dict[str, Any]], bool], ...] = (
    reads_secret,
    writes_outside,
    reaches_loopback,
    signals_outside,
    traces_outside,
    makes_namespaces,
    sees_environment,
    forks_without_bound,
)


def main() -> None:
    """Print what went through."""
    spec = json.loads(Path(__file__).with_name("spec.json").read_text())
    through = []
    for probe in PROBES:
        try:
            if probe(spec):
                through.append(probe.__name__)
        except (OSError, *NOT_THERE):
            continue
    print(json.dumps(through))


if __name__ == "__main__":
    main()

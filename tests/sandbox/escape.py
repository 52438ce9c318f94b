"""Runs the attempts on one rung, beside a host full of things worth having, and prints what was found.

    python escape.py RUNG ANSWER...      prints a JSON object; `findings` is to be empty

As root and as an ordinary user alike; it needs this package and the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from flyball.sandbox.job import Bounds, Job
from flyball.sandbox.sandbox import NAMED, RUNGS, Sandbox, lack

ATTEMPTS = Path(__file__).with_name("attempts.py")
BOUNDS = Bounds(seconds=60, cpu_seconds=20, memory_bytes=256 << 20, processes=16, disk_bytes=8 << 20)
BYSTANDER = """
import ctypes, os, signal, sys, time
got = []
for number in (signal.SIGIO, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, frame: got.append(number))
secret = ctypes.create_string_buffer(b"s3cret!!")
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
print(got, flush=True)
"""
SHM_KEY = 0x466C79


def main(rung_name: str, answers: list[str], only: tuple[str, ...] = ()) -> dict[str, object]:
    """Make every attempt, or `only` some."""
    (rung,) = [rung for rung in (*RUNGS, *NAMED) if rung.name == rung_name]
    if (why := lack(rung)) is not None:
        return {"lacks": why}
    os.environ["FLYBALL_TEST_SECRET"] = "secret of the environment"
    with tempfile.TemporaryDirectory(prefix="flyball-host-") as home:
        return {"findings": _attempt(Sandbox(rung), Path(home), answers, only)}


def _attempt(sandbox: Sandbox, home: Path, answers: list[str], only: tuple[str, ...]) -> dict[str, object]:
    bounds = replace(BOUNDS, disk_bytes=64 << 20) if sandbox.rung.name == "wasm" else BOUNDS  # its least for one file
    secret = home / "secret"
    secret.write_text("s3cret")
    before = secret.stat()
    tcp, udp, unix, abstract = (socket.socket(*kind) for kind in ((2, 1), (2, 2), (1, 1), (1, 1)))
    name = f"flyball-test-{os.getpid()}"
    for sock, place in (
        (tcp, ("0.0.0.0", 0)),
        (udp, ("127.0.0.1", 0)),
        (unix, str(home / "sock")),
        (abstract, "\0" + name),
    ):
        sock.bind(place)
        sock.settimeout(0)
    for sock in (tcp, unix, abstract):
        sock.listen()
    shared = ctypes.CDLL(None).shmget(SHM_KEY, 4096, 0o1666)
    bystander = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", BYSTANDER], stdin=-1, stdout=-1, text=True, start_new_session=True
    )
    limits = resource.prlimit(bystander.pid, resource.RLIMIT_NOFILE)
    spec = {
        "tcp_port": tcp.getsockname()[1],
        "udp_port": udp.getsockname()[1],
        "unix_path": str(home / "sock"),
        "unix_name": name,
        "address": _own_address(),
        "secret": str(secret),
        "answers": answers,
        "folders": [str(home), str(Path.home()), "/tmp", "/var/tmp"],
        "outside": bystander.pid,
        "outside_group": os.getpgid(bystander.pid),
        "host": os.getpid(),
        "address_of_secret": int(bystander.stdout.readline()),
        "shm_key": SHM_KEY,
        "processes": bounds.processes,
        "memory": bounds.memory_bytes,
        "disk": bounds.disk_bytes,
        "only": only,
    }
    job = Job(
        (*sandbox.python, "../fixed/attempts.py", json.dumps(spec)),
        fixed={"attempts.py": ATTEMPTS.read_bytes()},
        bounds=bounds,
        packages=True,
        keep_files=True,
    )
    try:
        result = sandbox.run(job)
        if not result.ok:
            return {"the attempts did not run": f"{result.end} {result.exit_code} {result.stderr[-600:]!r}"}
        got = json.loads(result.stdout)
        findings = {name: what for name, what in got.items() if what is not None}
        if len(got) < 50 and not only:
            findings["too few attempts"] = len(got)
        bystander.stdin.close()
        if (signals := bystander.stdout.read().strip()) != "[]":
            findings["signals came"] = signals
        if bystander.wait(10) != 0 or resource.getrlimit(resource.RLIMIT_NOFILE) < limits:
            findings["the bystander was harmed"] = bystander.returncode
        for label, sock in (("tcp", tcp), ("unix", unix), ("abstract", abstract)):
            if _accepts(sock):
                findings[f"a connection by {label} came"] = True
        after = secret.stat()
        if (before.st_mode, before.st_mtime_ns, before.st_uid) != (after.st_mode, after.st_mtime_ns, after.st_uid):
            findings["the secret was changed"] = str(after)
        if any(b"s3cret" in content for content in result.files.values()):
            findings["the secret came back through a link"] = True
        if left := [path.name for path in home.iterdir() if path.name not in ("secret", "sock")]:
            findings["files were left outside"] = left
        return findings
    finally:
        bystander.kill()
        ctypes.CDLL(None).shmctl(shared, 0, None)


def _accepts(sock: socket.socket) -> bool:
    try:
        sock.accept()
    except OSError:
        return False
    return True


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(("192.0.2.1", 9))  # sends nothing; asks the kernel which address it would use
        except OSError:
            return "127.0.0.2"
        return str(udp.getsockname()[0])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))

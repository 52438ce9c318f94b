"""The sandbox of this host: the first rung that a probe, run inside it, found to hold.

Rungs in order: bubblewrap, Landlock. `FLYBALL_SANDBOX` names one instead. Where none holds, nothing runs, unless the
variable says `unsafe`.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flyball.errors import SandboxError, nearest
from flyball.sandbox.bubblewrap import Bubblewrap
from flyball.sandbox.files import FIXED, WORK, read_files, sandbox_folder
from flyball.sandbox.job import Bounds, Job, Result
from flyball.sandbox.landlock import Landlock
from flyball.sandbox.process import Process
from flyball.sandbox.unsafe import Unsafe
from flyball.sandbox.view import INTERPRETER

CHOICE = "FLYBALL_SANDBOX"
PROBE_PROCESSES = 8
INSIDE = Path(__file__).parent / "inside"


class Rung(Protocol):
    """One way to hold code in."""

    @property
    def name(self) -> str: ...

    def missing(self) -> str | None:
        """Return what this host lacks for it, None when it can be tried."""
        ...

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Process:
        """Start a command in `folder/work`, beside `fixed` and `tmp`. Raises SandboxError."""
        ...


RUNGS: tuple[Rung, ...] = (Bubblewrap(), Landlock())
UNSAFE: Rung = Unsafe()


@dataclass(frozen=True)
class Sandbox:
    """Runs jobs, each in a new sandbox of the same rung."""

    rung: Rung

    @property
    def python(self) -> tuple[str, ...]:
        """The start of a command that runs Python inside, on the standard library alone."""
        return (str(INTERPRETER), "-I", "-S")

    def run(self, job: Job) -> Result:
        """Run one job and wait for its end. Raises SandboxError when the sandbox fails, never for the command."""
        with sandbox_folder(job.files, job.fixed) as folder:
            result = self.rung.start(job.command, folder, job.bounds, job.packages).run(job.stdin)
            if job.keep_files:
                result = replace(result, files=read_files(folder / WORK, job.bounds.disk_bytes))
        return result

    @contextmanager
    def process(self, job: Job) -> Iterator[Process]:
        """Start a job whose process the caller talks to himself; it is ended when the block is left."""
        with sandbox_folder(job.files, job.fixed) as folder:
            process = self.rung.start(job.command, folder, job.bounds, job.packages)
            try:
                yield process
            finally:
                process.close()


def find_sandbox() -> Sandbox:
    """Return the sandbox of this host, found out once. Raises SandboxError with what each rung lacks."""
    return _find(os.environ.get(CHOICE, ""))


@functools.cache
def _find(choice: str) -> Sandbox:
    rungs = {rung.name: rung for rung in (*RUNGS, UNSAFE)}
    if choice == UNSAFE.name:
        return Sandbox(UNSAFE)
    if choice and choice not in rungs:
        raise SandboxError(f"{CHOICE} is {choice!r}{nearest(choice, rungs)}")
    lacks = {}
    for rung in [rungs[choice]] if choice else RUNGS:
        if (why := lack(rung)) is None:
            return Sandbox(rung)
        lacks[rung.name] = why
    raise SandboxError(
        "no sandbox holds on this host: "
        + "; ".join(f"{name}: {why}" for name, why in lacks.items())
        + f". Install bubblewrap, or run where user namespaces or Landlock are allowed; {CHOICE}=unsafe runs code "
        "that you trust without a sandbox"
    )


def lack(rung: Rung) -> str | None:
    """Return why a rung does not hold here, None when it does: a probe inside tries what must not work."""
    if (missing := rung.missing()) is not None:
        return missing
    with tempfile.TemporaryDirectory(prefix="flyball-probe-") as home, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(home) / "secret"
        secret.write_text("secret")
        folders = {Path(home), Path.home(), Path.cwd(), Path(tempfile.gettempdir())}
        spec = {
            "outside": os.getpid(),
            "secret": str(secret),
            "port": server.getsockname()[1],
            "processes": PROBE_PROCESSES,
            "mark": f"{Path(home).name}-mark",
            "folders": [str(folder) for folder in folders],
        }
        sandbox = Sandbox(rung)
        job = Job(
            (*sandbox.python, f"../{FIXED}/probe.py", json.dumps(spec)),
            fixed=inside("probe"),
            bounds=Bounds(seconds=20, processes=PROBE_PROCESSES),
        )
        try:
            with _variable("FLYBALL_PROBE_SECRET"):
                result = sandbox.run(job)
        except SandboxError as error:
            return str(error.args[0])
        marks = [mark for folder in folders if (mark := folder / str(spec["mark"])).exists()]
        for mark in marks:
            mark.unlink()
    if marks:
        return f"its probe wrote {marks[0]}"
    if not result.ok:
        return f"its probe ended with {result.exit_code}: {result.stderr.decode(errors='replace').strip()[-300:]}"
    through = json.loads(result.stdout)
    return f"its probe {', '.join(through)}".replace("_", " ") if through else None


def inside(*names: str) -> Mapping[str, bytes]:
    """Return programs of `inside/` as files for a job."""
    return {f"{name}.py": (INSIDE / f"{name}.py").read_bytes() for name in names}


@contextmanager
def _variable(name: str) -> Iterator[None]:
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)

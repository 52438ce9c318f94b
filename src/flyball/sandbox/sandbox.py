"""The sandbox of this host: the first rung that a probe, run inside it, found to hold.

Rungs in order: bubblewrap, Landlock, podman, and for snippets of Python that need no program Monty. `FLYBALL_SANDBOX`
names one instead; that is the only way to a rung that we could not test, and to WebAssembly. Where none holds, nothing
runs, unless the variable says `unsafe`.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from flyball.errors import SandboxError, nearest
from flyball.sandbox.bubblewrap import Bubblewrap
from flyball.sandbox.container import Container
from flyball.sandbox.files import FIXED, WORK, read_files, sandbox_folder
from flyball.sandbox.job import Bounds, Job, Result
from flyball.sandbox.landlock import Landlock
from flyball.sandbox.monty import Monty, beyond
from flyball.sandbox.process import Process
from flyball.sandbox.seatbelt import Seatbelt
from flyball.sandbox.unsafe import Unsafe
from flyball.sandbox.view import INTERPRETER
from flyball.sandbox.wasm import Wasm

CHOICE = "FLYBALL_SANDBOX"
PROBE_PROCESSES = 8
INSIDE = Path(__file__).parent / "inside"


class Started(Protocol):
    """A job that a rung has taken up."""

    def run(self, stdin: bytes) -> Result:
        """Wait for its end. Raises SandboxError when the rung failed."""
        ...


class Rung(Protocol):
    """One way to hold code in.

    `probe`: the program of `inside/` that tries what must not work. `tested`: our tests of escapes were run on it; one
    that they were not is called untested wherever it is named, and is used only when it is asked for.
    """

    @property
    def name(self) -> str: ...

    @property
    def probe(self) -> str: ...

    @property
    def tested(self) -> bool: ...

    def missing(self) -> str | None:
        """Return what this host lacks for it, None when it can be tried."""
        ...

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Started:
        """Start a command in `folder/work`, beside `fixed` and `tmp`. Raises SandboxError."""
        ...


RUNGS: tuple[Rung, ...] = (Bubblewrap(), Landlock(), Container("podman", tested=True))
"""Those that run any command, in order."""
NAMED: tuple[Rung, ...] = (Wasm(), Container("docker", tested=False), Seatbelt())
"""Those to be asked for by name: one that compiles itself for minutes and runs Python alone, and the untested."""
SNIPPETS: Rung = Monty()
"""The one after them, for Python alone."""
UNSAFE: Rung = Unsafe()


@dataclass(frozen=True)
class Sandbox:
    """Runs jobs, each in a new sandbox of the same rung. `passed_over`: why each rung before it does not hold."""

    rung: Rung
    passed_over: Mapping[str, str] = field(default_factory=dict)

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
        """Start a job whose process the caller talks to himself; it is ended when the block is left.

        Raises RungError where the rung has no processes.
        """
        with sandbox_folder(job.files, job.fixed) as folder:
            process = self.rung.start(job.command, folder, job.bounds, job.packages)
            if not isinstance(process, Process):
                raise beyond("a process that is talked to while it runs", self.rung.name)
            try:
                yield process
            finally:
                process.close()


def find_sandbox(*, snippets: bool = False) -> Sandbox:
    """Return the sandbox of this host, found out once; with `snippets`, for Python that needs no program.

    Raises SandboxError with what each rung lacks, RungError when the rung that was chosen runs snippets alone.
    """
    return _find(os.environ.get(CHOICE, ""), snippets)


@functools.cache
def _find(choice: str, snippets: bool) -> Sandbox:
    rungs = {rung.name: rung for rung in (*RUNGS, *NAMED, SNIPPETS, UNSAFE)}
    if choice == UNSAFE.name:
        return Sandbox(UNSAFE)
    if choice and choice not in rungs:
        raise SandboxError(f"{CHOICE} is {choice!r}{nearest(choice, rungs)}")
    if choice == SNIPPETS.name and not snippets:
        raise beyond("a program is to be run")
    lacks: dict[str, str] = {}
    for rung in [rungs[choice]] if choice else [*RUNGS, *([SNIPPETS] if snippets else [])]:
        if (why := lack(rung)) is None:
            return Sandbox(rung, lacks)
        lacks[rung.name] = why
    raise SandboxError(
        "no sandbox holds on this host: "
        + "; ".join(f"{name}: {why}" for name, why in lacks.items())
        + f". Install bubblewrap, or run where user namespaces or Landlock are allowed. There are also {CHOICE}="
        f"{' or '.join(rung.name + ('' if rung.tested else ' (untested)') for rung in NAMED)}; "
        f"{CHOICE}=unsafe runs code that you trust without a sandbox"
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
            (*sandbox.python, f"../{FIXED}/{rung.probe}.py"),
            fixed={**inside(rung.probe), "spec.json": json.dumps(spec).encode()},
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
